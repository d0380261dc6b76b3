//! One safetensors file, mapped: its tensors share the file's memory where they can.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use safetensors::Dtype;
use tch::{Device, Kind, Tensor};

use super::blob;
use super::header::{self, Entry};
use crate::lm::LmError;
use crate::lm::files::{self, invalid};

/// Bytes that are converted, or looked at, at once: what a load needs beyond the weights themselves.
const STRIDE_BYTES: usize = 8 << 20;

/// A mapped safetensors file.
#[derive(Debug)]
pub(super) struct Mapped {
    pub path: PathBuf,
    mapping: Arc<MmapMut>,
    pub entries: HashMap<String, Entry>,
}

impl Mapped {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// The file can't be read, or is no valid safetensors file.
    pub fn open(path: &Path) -> Result<Self, LmError> {
        let file = files::open(path)?;
        let io = |source| LmError::Io {
            path: path.to_owned(),
            source,
        };
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(invalid(path, "is empty"));
        }
        // Private: whoever changes a weight in place has the page for himself, and the file stays as it is. Without a
        // reservation, because hardly anyone changes all of a file that may be larger than the memory.
        // SAFETY: an input of a node is read-only and does not change while the node runs.
        let mapping = unsafe { MmapOptions::new().no_reserve_swap().map_copy(&file) }.map_err(io)?;
        let entries = header::parse(&mapping).map_err(|message| invalid(path, message))?;
        Ok(Self {
            path: path.to_owned(),
            mapping: Arc::new(mapping),
            entries,
        })
    }

    /// Returns a tensor as it is in the file, over the file's own memory where it is aligned.
    ///
    /// # Errors
    /// The tensor's kind is not a floating-point one.
    pub fn tensor(&self, name: &str) -> Result<Tensor, LmError> {
        let entry = &self.entries[name];
        let kind = self.kind(name)?;
        match blob::view(&self.mapping, &entry.range, &entry.shape, kind)? {
            Some(tensor) => Ok(tensor),
            // Its length was checked against kind and shape with the header.
            None => Ok(Tensor::f_from_data_size(
                &self.mapping[entry.range.clone()],
                &entry.shape,
                kind,
            )?),
        }
    }

    /// Returns a tensor on `device` in `kind`. Where it has to be converted or moved, that is done piece by piece, and the
    /// file's pages are given back behind it: no second copy is ever in memory.
    ///
    /// # Errors
    /// As [`Mapped::tensor`]; a weight is not a finite number, or the device's memory is full.
    pub fn load(&self, name: &str, device: Device, kind: Kind) -> Result<Tensor, LmError> {
        let source = self.tensor(name)?;
        let stays = device == Device::Cpu && source.kind() == kind;
        let target = match stays {
            true => None,
            false => Some(Tensor::f_empty(source.size(), (kind, device))?),
        };
        let flat = source.f_view([-1])?;
        let (num_elements, stride) = (
            flat.size()[0],
            (STRIDE_BYTES / source.kind().elt_size_in_bytes()) as i64,
        );
        for start in (0..num_elements).step_by(stride as usize) {
            let length = stride.min(num_elements - start);
            let piece = flat.f_narrow(0, start, length)?;
            self.check_finite(name, &piece)?;
            if let Some(target) = &target {
                target.f_view([-1])?.f_narrow(0, start, length)?.f_copy_(&piece)?;
                self.give_back(name, start as usize, length as usize);
            }
        }
        Ok(target.unwrap_or(source))
    }

    /// The kind of a tensor.
    pub fn kind(&self, name: &str) -> Result<Kind, LmError> {
        let dtype = self.entries[name].dtype;
        kind_of(dtype).ok_or_else(|| {
            let wanted = "F32, BF16, F16 or F64";
            invalid(
                &self.path,
                format!("tensor {name} is of kind {dtype:?}, expected {wanted}"),
            )
        })
    }

    /// The extremes are NaN where any element is, and infinite where one is.
    fn check_finite(&self, name: &str, piece: &Tensor) -> Result<(), LmError> {
        let (least, most) = piece.f_aminmax(None, false)?;
        if least.f_double_value(&[])?.is_finite() && most.f_double_value(&[])?.is_finite() {
            return Ok(());
        }
        Err(invalid(
            &self.path,
            format!("tensor {name} holds NaN or infinite values; the file is damaged, or its training diverged"),
        ))
    }

    /// Lets the pages of a converted piece go.
    fn give_back(&self, name: &str, start: usize, length: usize) {
        let entry = &self.entries[name];
        let element = entry.range.len() / entry.shape.iter().product::<i64>().max(1) as usize;
        let start = entry.range.start + start * element;
        // SAFETY: nobody has written to the mapping, whose tensors are still being made: a page that is asked for again,
        // such as one that holds the end of another tensor, comes from the file. A failure costs memory alone.
        let _ = unsafe {
            self.mapping
                .unchecked_advise_range(UncheckedAdvice::DontNeed, start, length * element)
        };
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F64 => Some(Kind::Double),
        Dtype::F32 => Some(Kind::Float),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F16 => Some(Kind::Half),
        _ => None,
    }
}
