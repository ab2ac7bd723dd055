// The one place where arrays from Python are checked. An array is taken as it is or refused: a silent
// conversion would write results into a temporary copy and lose them.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

namespace synbench {
namespace py = pybind11;

constexpr std::int64_t kAny = -1;

inline std::string shape_text(const py::ssize_t* shape, py::ssize_t ndim) {
  std::string text = "[";
  for (py::ssize_t i = 0; i < ndim; ++i)
    text += (i ? ", " : "") + (shape[i] < 0 ? std::string("any") : std::to_string(shape[i]));
  return text + "]";
}

template <typename T>
void check_array(const py::array& array, const char* name, std::initializer_list<std::int64_t> shape) {
  std::vector<py::ssize_t> want(shape.begin(), shape.end());
  bool same = array.ndim() == static_cast<py::ssize_t>(want.size());
  for (std::size_t i = 0; same && i < want.size(); ++i)
    same = want[i] == kAny || array.shape(static_cast<py::ssize_t>(i)) == want[i];
  const bool contiguous = array.flags() & py::array::c_style;
  if (py::isinstance<py::array_t<T>>(array) && same && contiguous) return;
  throw py::value_error(std::string(name) + ": expected C-contiguous " +
                        py::str(py::dtype::of<T>()).cast<std::string>() + " " +
                        shape_text(want.data(), static_cast<py::ssize_t>(want.size())) + ", got " +
                        (contiguous ? "" : "non-contiguous ") + py::str(array.dtype()).cast<std::string>() + " " +
                        shape_text(array.shape(), array.ndim()));
}

template <typename T>
const T* input(const py::array& array, const char* name, std::initializer_list<std::int64_t> shape) {
  check_array<T>(array, name, shape);
  return static_cast<const T*>(array.data());
}

template <typename T>
T* output(py::array& array, const char* name, std::initializer_list<std::int64_t> shape) {
  check_array<T>(array, name, shape);
  if (!array.writeable()) throw py::value_error(std::string(name) + ": expected a writable array, got a read-only one");
  return static_cast<T*>(array.mutable_data());
}

}  // namespace synbench
