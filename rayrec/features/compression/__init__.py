"""Makes a network small by Deep Compression (prune, share weights, Huffman-code them), and fast by 8-bit kernels."""
