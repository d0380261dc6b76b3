//! The container: metadata and where each tensor lies. Pure, because the bytes come from outside: nothing is reserved
//! by a number that was read, and every length is checked against what is left.
//!
//! Source: ggml's `docs/gguf.md`, versions 2 and 3, little-endian.

use std::collections::BTreeMap;
use std::ops::Range;

/// Where data begin is a multiple of this, unless the file says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// More dimensions than ggml has.
const MAX_DIMS: u32 = 4;

/// More entries than the vocabulary of any model has.
const MAX_LIST: u64 = 1 << 24;

/// A parsed file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gguf {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Ints(Vec<i64>),
    Texts(Vec<String>),
    /// A list of what nobody needs here.
    Other,
}

/// Where a tensor lies in its file, and what it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorInfo {
    /// Number of the type in ggml's list.
    pub type_id: u32,
    /// Slowest dimension first, as in PyTorch; the file has them the other way round.
    pub shape: Vec<i64>,
    /// Number of elements.
    pub len: usize,
    /// Begin of the data in the file.
    pub start: usize,
}

impl Gguf {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// Says what is wrong with `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4)? != b"GGUF" {
            return Err("is no GGUF file: it does not begin with \"GGUF\"".to_owned());
        }
        match cursor.u32()? {
            2 | 3 => (),
            version if version.swap_bytes() <= 3 => return Err("is big-endian, which is not supported".to_owned()),
            version => return Err(format!("is GGUF version {version}; supported: 2 and 3")),
        }
        let (num_tensors, num_values) = (cursor.u64()?, cursor.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..num_values {
            let key = cursor.text()?;
            let type_id = cursor.u32()?;
            let value = cursor.value(type_id).map_err(|error| format!("{key}: {error}"))?;
            metadata.insert(key, value);
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..num_tensors {
            let (name, info) = cursor.tensor()?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(format!("has the tensor {name} twice"));
            }
        }
        let data_start = aligned(cursor.at, &metadata)?;
        for (name, info) in &mut tensors {
            info.start = info
                .start
                .checked_add(data_start)
                .filter(|&start| start <= bytes.len())
                .ok_or_else(|| format!("tensor {name} lies outside of the file, which may be cut short"))?;
        }
        Ok(Self { metadata, tensors })
    }
}

/// Where the data begin that follow a head of `len` bytes.
fn aligned(len: usize, metadata: &BTreeMap<String, Value>) -> Result<usize, String> {
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Int(alignment @ 1..=0x10_0000)) => *alignment as u64,
        Some(other) => return Err(format!("general.alignment is {other:?}, expected 1 to 1048576")),
    };
    Ok((len as u64).next_multiple_of(alignment) as usize)
}

/// Bytes that are read from front to back.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let len = usize::try_from(len).ok().filter(|&len| len <= rest.len());
        let len = len.ok_or("ends in the middle of its head; it is cut short, or no GGUF file")?;
        self.at += len;
        Ok(&rest[..len])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("as many as were asked for"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    fn value(&mut self, type_id: u32) -> Result<Value, String> {
        Ok(match type_id {
            0 => Value::Int(i64::from(self.array::<1>()?[0])),
            1 => Value::Int(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Int(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Int(i64::from(self.u32()?)),
            5 => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => self.list()?,
            10 => Value::Int(i64::try_from(self.u64()?).map_err(|_| "is too large")?),
            11 => Value::Int(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("has the unknown type {other}")),
        })
    }

    fn list(&mut self) -> Result<Value, String> {
        let (type_id, len) = (self.u32()?, self.u64()?);
        if len > MAX_LIST {
            return Err(format!("has {len} entries, expected at most {MAX_LIST}"));
        }
        match type_id {
            0..=5 | 10 | 11 => {
                let mut list = Vec::new();
                for _ in 0..len {
                    match self.value(type_id)? {
                        Value::Int(value) => list.push(value),
                        _ => unreachable!("these types are integers"),
                    }
                }
                Ok(Value::Ints(list))
            }
            8 => (0..len)
                .map(|_| self.text())
                .collect::<Result<_, _>>()
                .map(Value::Texts),
            6 | 7 | 12 => {
                let size = match type_id {
                    6 => 4,
                    7 => 1,
                    _ => 8,
                };
                self.take(len * size)?;
                Ok(Value::Other)
            }
            other => Err(format!("is a list of the type {other}, which is not supported")),
        }
    }

    fn tensor(&mut self) -> Result<(String, TensorInfo), String> {
        let name = self.text()?;
        let num_dims = self.u32()?;
        if !(1..=MAX_DIMS).contains(&num_dims) {
            return Err(format!(
                "tensor {name} has {num_dims} dimensions, expected 1 to {MAX_DIMS}"
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..num_dims {
            shape.push(self.u64()?);
        }
        shape.reverse();
        let len = shape.iter().try_fold(1_u64, |len, &size| len.checked_mul(size));
        let len = len
            .filter(|&len| len > 0 && len <= i64::MAX as u64)
            .ok_or_else(|| format!("tensor {name} has the shape {shape:?}"))?;
        let (type_id, start) = (self.u32()?, self.u64()?);
        let info = TensorInfo {
            type_id,
            shape: shape.into_iter().map(|size| size as i64).collect(),
            len: len as usize,
            start: usize::try_from(start).map_err(|_| format!("tensor {name} lies at {start}"))?,
        };
        Ok((name, info))
    }
}

impl TensorInfo {
    /// The bytes of the file that hold the tensor, in blocks of `block_len` elements and `block_bytes` bytes.
    ///
    /// # Errors
    /// Rows are no multiple of blocks, or the file ends before the tensor does.
    pub fn range(&self, block_len: usize, block_bytes: usize, file_len: usize) -> Result<Range<usize>, String> {
        let row_len = *self.shape.last().expect("at least one dimension") as usize;
        if !row_len.is_multiple_of(block_len) {
            return Err(format!(
                "has rows of {row_len} elements, expected a multiple of {block_len}"
            ));
        }
        let size = (self.len / block_len).checked_mul(block_bytes);
        size.and_then(|size| self.start.checked_add(size))
            .filter(|&end| end <= file_len)
            .map(|end| self.start..end)
            .ok_or_else(|| "ends after the file, which is cut short".to_owned())
    }
}
