// A step's products with int8 weights: what takes the place of StepCell's where the operation has those.

struct Int8Step {
  static constexpr I L = F32::kLanes;

  const Step& step;
  const CellLayout& c;
  const I N;

  I units() const { return step.op.width; }
  static I stride_of(I width) { return blocks_of(width, 16) * 16; }
  static void digits(const float* value, I N, I width, uint8_t* to, float* steps) {
    const I stride = stride_of(width);
    for (I r = 0; r < N; ++r) {
      make_digits(value + r * L, N * L, width, to + r * 2 * stride, stride, steps + r);
    }
  }

  void read() const {
    if (step.first != nullptr) {
      digits(static_cast<const float*>(step.first), N, step.D, step.int8.x_digits, step.int8.x_steps);
    }
    if (is_dense(step.op)) return;
    digits(static_cast<const float*>(step.state[0]), N, units(), step.int8.h_digits, step.int8.h_steps);
  }
  void read_late(const float* late) const {
    digits(late, N, units(), step.int8.h_digits, step.int8.h_steps);
  }

  PackedInt8 kernel() const {
    return {static_cast<int8_t*>(step.kernel), step.int8.kernel_scales, step.int8.kernel_starts};
  }
  PackedInt8 recurrent() const {
    return {static_cast<int8_t*>(step.recurrent), step.int8.recurrent_scales,
            step.int8.recurrent_starts};
  }
  PackedInt8 late() const {
    return {static_cast<int8_t*>(step.late), step.int8.late_scales, step.int8.late_starts};
  }

  // The product of rows [r, r + count) of digits with the panels from p on, each of `cols` columns.
  void add(const uint8_t* of_rows, const float* steps, I depth, const PackedInt8& w, I p, I cols, I together,
           I r, I count, float* z, I ldz, I z_column) const {
    const I stride = stride_of(depth), quads = quads_of(depth);
    step.int8.multiply({of_rows + r * 2 * stride, stride, steps + r, count, quads,
                        w.weights + p * quads * cols * 4 * L, w.scales + p * cols * L,
                        w.starts + p * cols * L, cols * together, z, ldz, z_column});
  }

  // Bias and the inputs' product of `together` panels.
  void project(const uint8_t* x_digits, const float* x_steps, I p, I together, I r, I count, float* z,
               I z_panel) const {
    const I cols = c.cols, ldz = cols * L;
    const float* bias = static_cast<const float*>(step.bias) + p * ldz;
    for (I q = 0; q < together; ++q) {
      for (I i = 0; i < count; ++i) {
        __builtin_memcpy(z + q * z_panel + i * ldz, bias + q * ldz, sizeof(float) * ldz);
      }
    }
    add(x_digits, x_steps, step.D, kernel(), p, c.x_cols, together, r, count, z, ldz,
        cols > 1 ? L : z_panel);
  }

  void products(I p, I together, I r, I count, float* z, I z_panel) const {
    const I cols = c.cols, ldz = cols * L, z_column = cols > 1 ? L : z_panel;
    if (step.int8.projected != nullptr) {
      for (I q = 0; q < together; ++q) {
        const float* from = step.int8.projected + (p + q) * step.int8.projected_stride + r * ldz;
        __builtin_memcpy(z + q * z_panel, from, sizeof(float) * count * ldz);
      }
    } else {
      project(step.int8.x_digits, step.int8.x_steps, p, together, r, count, z, z_panel);
    }
    if (is_dense(step.op)) return;
    add(step.int8.h_digits, step.int8.h_steps, units(), recurrent(), p, c.h_cols, together, r, count,
        z + c.h_first * L, ldz, z_column);
  }

  void late_product(I p, I together, float* z) const {
    const I ldz = c.cols * L;
    add(step.int8.h_digits, step.int8.h_steps, units(), late(), p, 1, together, 0, N, z, ldz, ldz * N);
  }

  void pack(const Int8Kernel& kernel_given, const Int8Kernel& recurrent_given, const void* bias,
            Span all) const {
    const I U = units();
    pack_int8(kernel_given, step.D, U, c.gates, c.gate_of_x, c.x_cols, all, kernel());
    if (recurrent_given.values != nullptr) {
      pack_int8(recurrent_given, U, U, c.gates, c.gate_of_h, c.h_cols, all, recurrent());
      if (c.has_late()) pack_int8(recurrent_given, U, U, c.gates, &c.late_gate, 1, all, late());
    }
    pack_bias<F32>(static_cast<const float*>(bias), c, U, all, static_cast<float*>(step.bias));
  }
};
