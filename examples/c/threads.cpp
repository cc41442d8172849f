// RMS normalization from C++17, on threads of the program: each takes rows of its own, and the bits are those of one
// call for all rows.
#include <lanenorm.h>

#include <algorithm>
#include <cstdio>
#include <future>
#include <stdexcept>
#include <vector>

namespace {

void check(lanenorm_status status) {
  if (status != LANENORM_STATUS_OK) throw std::runtime_error(lanenorm_last_error_message());
}

class RmsNorm {
 public:
  RmsNorm(std::size_t cols, double eps) {
    lanenorm_desc desc = LANENORM_DESC_INIT;
    desc.op = LANENORM_OP_RMS_NORM;
    desc.cols = cols;
    desc.eps = eps;
    check(lanenorm_plan_init(&plan_, &desc));
  }

  // Each thread has a message of its own, so the exception is made on the thread that called.
  void forward_rows(const lanenorm_forward_buffers &buffers, std::size_t first, std::size_t count) const {
    check(lanenorm_plan_forward_rows(&plan_, &buffers, first, count));
  }

 private:
  lanenorm_plan plan_; // Numbers: copied, shared, and never freed.
};

} // namespace

int main() try {
  constexpr std::size_t rows = 100, cols = 768, at_once = 32;
  std::vector<float> x(rows * cols), gamma(cols, 1.5f), y(rows * cols), expected(rows * cols);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 97) - 40.0f;

  const RmsNorm norm(cols, 1e-6);
  lanenorm_forward_buffers buffers = LANENORM_FORWARD_INIT;
  buffers.rows = rows;
  buffers.x.data = x.data();
  buffers.gamma = gamma.data();
  buffers.y.data = y.data();
  std::vector<std::future<void>> parts;
  for (std::size_t first = 0; first < rows; first += at_once) {
    const std::size_t count = std::min(at_once, rows - first);
    parts.push_back(std::async(std::launch::async, [&norm, &buffers, first, count] {
      norm.forward_rows(buffers, first, count);
    }));
  }
  for (auto &part : parts) part.get();

  buffers.y.data = expected.data();
  norm.forward_rows(buffers, 0, rows);
  if (y != expected) throw std::runtime_error("the bits depend on threads");
  std::printf("lanenorm %s, %s: y[1] is %g\n", lanenorm_version(), lanenorm_isa_name(), y[1]);
  return 0;
} catch (const std::exception &error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
