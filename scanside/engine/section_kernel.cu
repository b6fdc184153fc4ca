// One pixel a thread of one section: the weighted sum of the volume's voxels that it covers.
//
// Rows and columns have a table each (see exam/taps.py): first native index and weights of every pixel. A pixel beyond
// `rows` or `columns` is padding and 0. `top` and `left` are the window's corner in the section.

extern "C" __global__ void cut_section(
    const unsigned char *volume, unsigned char *section,
    const int *row_first, const float *row_weights, int row_taps, int row_last, long long row_stride,
    const int *column_first, const float *column_weights, int column_taps, int column_last, long long column_stride,
    int top, int left, int rows, int columns, int height, int width, int rounded)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    float sum = 0.0f;
    if (x < columns && y < rows) {
        const int row = top + y, column = left + x;
        for (int j = 0; j < column_taps; ++j) {
            const int c = min(column_first[column] + j, column_last);
            float inner = 0.0f;
            for (int i = 0; i < row_taps; ++i) {
                const int r = min(row_first[row] + i, row_last);
                inner += row_weights[row * row_taps + i] * (float)volume[r * row_stride + c * column_stride];
            }
            if (rounded)
                inner = rintf(inner);
            sum += column_weights[column * column_taps + j] * inner;
        }
    }
    section[(long long)y * width + x] = (unsigned char)fminf(fmaxf(rintf(sum), 0.0f), 255.0f);
}
