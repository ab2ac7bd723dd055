// The one place where arrays from Python are checked. An array is taken as it is or refused: a silent
// conversion would write results into a temporary copy and lose them.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

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
  // A slice of bytes may start anywhere, and the compiler takes a T* to be aligned.
  const bool aligned = array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if (py::isinstance<py::array_t<T>>(array) && same && contiguous && aligned) return;
  throw py::value_error(std::string(name) + ": expected C-contiguous " +
                        py::str(py::dtype::of<T>()).cast<std::string>() + " " +
                        shape_text(want.data(), static_cast<py::ssize_t>(want.size())) + ", got " +
                        (contiguous ? "" : "non-contiguous ") + (aligned ? "" : "unaligned ") +
                        py::str(array.dtype()).cast<std::string>() + " " + shape_text(array.shape(), array.ndim()));
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

// What is written must not be what is read: labels, for one, are checked once and then trusted.
inline void check_apart(const py::array& written, const char* name, const py::array& read, const char* other) {
  const auto begin = [](const py::array& array) { return static_cast<const char*>(array.data()); };
  const std::less<const char*> before;
  const bool apart = written.nbytes() == 0 || read.nbytes() == 0 ||
                     !before(begin(written), begin(read) + read.nbytes()) ||
                     !before(begin(read), begin(written) + written.nbytes());
  if (!apart) throw py::value_error(std::string(name) + ": expected memory of its own, got that of " + other);
}

inline void expect(bool good, const std::string& message) {
  if (!good) throw py::value_error(message);
}

inline void check_threads(int threads) {
  expect(threads >= 0, "threads: expected at least 0, got " + std::to_string(threads));
}

}  // namespace synbench
