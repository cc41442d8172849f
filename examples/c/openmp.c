#include <lanenorm.h>
enum { ROWS = 512, COLS = 4096 };
static float x[ROWS * COLS], residual[ROWS * COLS], gamma_[COLS], y[ROWS * COLS];

int main(void) {
  lanenorm_desc desc = LANENORM_DESC_INIT;
  desc.op = LANENORM_OP_RMS_NORM, desc.cols = COLS, desc.eps = 1e-6;
  lanenorm_forward_buffers b = LANENORM_FORWARD_INIT; /* x + residual over residual, normalized into y */
  b.rows = ROWS, b.x.data = x, b.residual.data = b.sum.data = residual, b.gamma = gamma_, b.y.data = y;
  lanenorm_plan plan;
  int failed = lanenorm_plan_init(&plan, &desc);
#pragma omp parallel for reduction(| : failed)
  for (int row = 0; row < ROWS; row += 16) failed |= lanenorm_plan_forward_rows(&plan, &b, (size_t)row, 16);
  return failed;
}
