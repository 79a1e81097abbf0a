// The module entropic._core: configuration, threads, and every family's functions.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "../cpu/dispatch.hpp"
#include "../cpu/pool.hpp"
#include "register.hpp"

namespace py = pybind11;
using namespace entropic;

namespace {

// Called by the pool without the GIL, on the thread that made the call.
bool signals_pending() {
  py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

std::vector<std::string> isa_names(bool all) {
  int count;
  const cpu::IsaInfo* isas = cpu::compiled_isas(count);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i)
    if (all || isas[i].runs_here) names.emplace_back(isas[i].kernels->name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  cpu::set_interrupt_check(signals_pending);
  m.attr("version") = ENTROPIC_VERSION;
  m.attr("cuda_build") = ENTROPIC_CUDA_BUILD;
  m.def("isa_compiled", [] { return isa_names(true); });
  m.def("isa_available", [] { return isa_names(false); });
  m.def("isa_active", [] { return std::string(cpu::active().name); });
  m.def("isa_float_lanes", [] { return cpu::active().float_lanes; });
  m.def("force_isa", [](const std::string& name) { return cpu::force_isa(name.c_str()); }, py::arg("name"));
  m.def("get_num_threads", &cpu::num_threads);
  m.def("set_num_threads", &cpu::set_num_threads, py::arg("n"));
  bind::register_coupling(m);
  bind::register_logits(m);
  bind::register_neighbors(m);
  bind::register_spectral(m);
  bind::register_transport(m);
}
