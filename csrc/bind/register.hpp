// One function a family; core.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

namespace entropic {
namespace bind {

void register_coupling(pybind11::module_& m);
void register_logits(pybind11::module_& m);
void register_neighbors(pybind11::module_& m);
void register_spectral(pybind11::module_& m);
void register_transport(pybind11::module_& m);

}  // namespace bind
}  // namespace entropic
