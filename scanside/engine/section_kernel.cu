// One pixel a thread of one section: the weighted sum of the volume's voxels that it covers.
//
// Rows and columns have a table each (see exam/taps.py): first native index and weights of every pixel. A pixel beyond
// `rows` or `columns` is padding and 0. `top` and `left` are the window's corner in the section. One axis is summed
// inside the other, in OpenCV's order, so that float rounding is OpenCV's too: the columns of a row first; or, where
// `rounded`, the rows of a column first, each such sum rounded to a pixel. An axis that grows is counted in quarters of
// a grey level, as OpenCV does: every product of the inner axis, and the sum of the outer, is cut off to them.

__device__ static float rounded_quarters(float quarters) { return floorf((quarters + 2.0f) / 4.0f); }

extern "C" __global__ void cut_section(
    const unsigned char *volume, unsigned char *section,
    const int *inner_first, const float *inner_weights, int inner_taps, int inner_last, long long inner_stride,
    const int *outer_first, const float *outer_weights, int outer_taps, int outer_last, long long outer_stride,
    int top, int left, int rows, int columns, int height, int width,
    int rounded, int inner_grows, int outer_grows)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    float sum = 0.0f;
    if (x < columns && y < rows) {
        const int inner = rounded ? top + y : left + x;
        const int outer = rounded ? left + x : top + y;
        for (int j = 0; j < outer_taps; ++j) {
            const unsigned char *line = volume + min(outer_first[outer] + j, outer_last) * outer_stride;
            float part = 0.0f;
            for (int i = 0; i < inner_taps; ++i) {
                const float voxel = line[min(inner_first[inner] + i, inner_last) * inner_stride];
                const float product = inner_weights[inner * inner_taps + i] * voxel;
                part += inner_grows ? floorf(4.0f * product) : product;
            }
            if (rounded)
                part = inner_grows ? rounded_quarters(part) : rintf(part);
            sum += outer_weights[outer * outer_taps + j] * part;
        }
        sum = outer_grows ? rounded_quarters(floorf(4.0f * sum)) : rintf(sum);
    }
    section[(long long)y * width + x] = (unsigned char)fminf(fmaxf(sum, 0.0f), 255.0f);
}
