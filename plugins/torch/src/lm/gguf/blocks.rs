//! ggml's number formats: blocks of bytes to floats. Pure.
//!
//! Source: ggml, `ggml-quants.c`, `dequantize_row_*`; the same as `gguf.quants.dequantize` of llama.cpp's Python package.

use half::{bf16, f16};

/// A number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Names of the formats, for messages.
pub(super) const SUPPORTED: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

impl Format {
    /// The format with this number in `ggml_type`.
    pub fn of(type_id: u32) -> Option<Self> {
        match type_id {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            2 => Some(Self::Q4_0),
            3 => Some(Self::Q4_1),
            6 => Some(Self::Q5_0),
            7 => Some(Self::Q5_1),
            8 => Some(Self::Q8_0),
            12 => Some(Self::Q4K),
            13 => Some(Self::Q5K),
            14 => Some(Self::Q6K),
            30 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Elements of a block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q5K => 2 + 2 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Decodes whole blocks, appending their elements to `out`.
    pub fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        let decode_block = match self {
            Self::F32 => decode_f32,
            Self::F16 => |block: &[u8], out: &mut Vec<f32>| out.push(f16_at(block, 0)),
            Self::Bf16 => {
                |block: &[u8], out: &mut Vec<f32>| out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32())
            }
            Self::Q4_0 => |block: &[u8], out: &mut Vec<f32>| {
                let scale = f16_at(block, 0);
                out.extend(nibbles(&block[2..]).map(|quant| scale * (f32::from(quant) - 8.0)));
            },
            Self::Q4_1 => |block: &[u8], out: &mut Vec<f32>| {
                let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
                out.extend(nibbles(&block[4..]).map(|quant| scale * f32::from(quant) + minimum));
            },
            Self::Q5_0 => |block: &[u8], out: &mut Vec<f32>| {
                let scale = f16_at(block, 0);
                out.extend(five_bits(&block[2..]).map(|quant| scale * (f32::from(quant) - 16.0)));
            },
            Self::Q5_1 => |block: &[u8], out: &mut Vec<f32>| {
                let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
                out.extend(five_bits(&block[4..]).map(|quant| scale * f32::from(quant) + minimum));
            },
            Self::Q8_0 => decode_q8_0,
            Self::Q4K => |block: &[u8], out: &mut Vec<f32>| decode_parts(block, &block[16..], |_, _| 0, out),
            Self::Q5K => |block: &[u8], out: &mut Vec<f32>| {
                let (high, low) = block[16..].split_at(32);
                decode_parts(block, low, |part, column| high[column] >> part & 1, out);
            },
            Self::Q6K => decode_q6_k,
        };
        for block in bytes.chunks_exact(self.block_bytes()) {
            decode_block(block, out);
        }
    }
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn decode_f32(block: &[u8], out: &mut Vec<f32>) {
    out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]]));
}

/// A scale and 32 signed bytes.
fn decode_q8_0(block: &[u8], out: &mut Vec<f32>) {
    let scale = f16_at(block, 0);
    out.extend(block[2..].iter().map(|&quant| scale * f32::from(quant as i8)));
}

/// The 32 elements of four bits in 16 bytes: first all low halves, then all high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let high = bytes.iter().map(|byte| byte >> 4);
    bytes.iter().map(|byte| byte & 0xf).chain(high)
}

/// 32 elements of five bits: their highest bits in four bytes, then the others.
fn five_bits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let (high, low) = bytes.split_at(4);
    let bit = |idx: usize| high[idx / 8] >> (idx % 8) & 1;
    nibbles(low).enumerate().map(move |(idx, low)| low | bit(idx) << 4)
}

/// Eight parts of 32 elements, each with a scale and a minimum of six bits, which the first 16 bytes of the block hold.
/// Elements have four bits in `low`, and perhaps a fifth: that of part and column.
fn decode_parts(block: &[u8], low: &[u8], fifth: impl Fn(usize, usize) -> u8, out: &mut Vec<f32>) {
    let (scale, minimum, packed) = (f16_at(block, 0), f16_at(block, 2), &block[4..16]);
    for part in 0..8 {
        let (part_scale, part_minimum) = scale_and_minimum(packed, part);
        let (scale, minimum) = (scale * part_scale, minimum * part_minimum);
        let (pair, shift) = (part / 2 * 32, part % 2 * 4);
        out.extend(low[pair..pair + 32].iter().enumerate().map(|(column, low)| {
            let quant = low >> shift & 0xf | fifth(part, column) << 4;
            scale * f32::from(quant) - minimum
        }));
    }
}

/// The six bits of scale and minimum of one of the eight parts, out of twelve bytes.
fn scale_and_minimum(packed: &[u8], part: usize) -> (f32, f32) {
    let (scale, minimum) = if part < 4 {
        (packed[part] & 0x3f, packed[part + 4] & 0x3f)
    } else {
        let low = packed[part + 4];
        (
            low & 0xf | packed[part - 4] >> 2 & 0x30,
            low >> 4 | packed[part] >> 2 & 0x30,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// Sixteen parts of 16 elements, each with a scale of eight bits; elements have six: four low ones in 128 bytes, two high
/// ones in 64.
fn decode_q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = (&rest[..16], f16_at(rest, 16));
    for idx in 0..256 {
        let (half, row, column) = (idx / 128, idx % 128 / 32, idx % 32);
        let low = low[half * 64 + row % 2 * 32 + column] >> (row / 2 * 4) & 0xf;
        let high = high[half * 32 + column] >> (row * 2) & 3;
        let quant = i16::from(low | high << 4) - 32;
        let scale = scale * f32::from(scales[idx / 16] as i8);
        out.push(scale * f32::from(quant));
    }
}
