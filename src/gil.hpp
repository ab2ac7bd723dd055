// Python's lock is let go while the core computes.
#pragma once
#include <pybind11/pybind11.h>
#include <unistd.h>

namespace synbench {

// As pybind11's gil_scoped_release, except when the interpreter ends meanwhile. Before Python 3.14, taking the lock
// then ends a daemon thread with pthread_exit, which unwinds the stack as an exception would; in a destructor that
// is std::terminate for the whole process. The thread waits for the end of the process instead, as in Python 3.14.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace synbench
