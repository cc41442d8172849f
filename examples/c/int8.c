#include <lanenorm.h>
enum { ROWS = 512, COLS = 4096 };
static float x[ROWS * COLS], scale[ROWS];
static int8_t q[ROWS * COLS];
int main(void) {
  lanenorm_desc desc = LANENORM_DESC_INIT;
  desc.op = LANENORM_OP_RMS_NORM, desc.cols = COLS, desc.eps = 1e-6;
  lanenorm_forward_buffers b = LANENORM_FORWARD_INIT; /* y is not written, as it has no place */
  b.rows = ROWS, b.x.data = x;
  lanenorm_scheme by_row = LANENORM_SCHEME_INIT; /* int8, amax / 127 */
  lanenorm_quantized to = LANENORM_QUANTIZED_INIT;
  to.q.data = q, to.scale = scale;
  lanenorm_plan plan;
  return lanenorm_plan_init(&plan, &desc) || lanenorm_plan_quantize(&plan, &b, &by_row, &to, 0);
}
