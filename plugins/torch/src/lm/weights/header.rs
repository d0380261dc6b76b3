//! The header of a safetensors file: where each tensor lies. Pure, because the bytes come from outside.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::{Dtype, SafeTensorError, SafeTensors};

/// Where a tensor lies in its file, and what it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<i64>,
    /// Bytes of the file; as many as kind and shape need, and within the file.
    pub range: Range<usize>,
}

/// Reads the header of a whole safetensors file.
///
/// # Errors
/// Says what is wrong with `bytes`: they are cut short, no header, or one whose tensors overlap, leave gaps, end elsewhere
/// than the file, or have another size than their shape.
pub(crate) fn parse(bytes: &[u8]) -> Result<HashMap<String, Entry>, String> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err("is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`".to_owned());
    }
    let (header_len, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| in_words(&error))?;
    let data_start = size_of::<u64>() + header_len;
    metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let shape: Option<Vec<i64>> = info.shape.iter().map(|&size| i64::try_from(size).ok()).collect();
            let shape = shape.ok_or_else(|| format!("tensor {name} has the shape {:?}", info.shape))?;
            let (start, end) = info.data_offsets;
            let entry = Entry {
                dtype: info.dtype,
                shape,
                range: data_start + start..data_start + end,
            };
            Ok((name, entry))
        })
        .collect()
}

fn in_words(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooSmall => "is too short to be a safetensors file".to_owned(),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            "its header would be longer than the file or 100 MB; the file is cut short, or no safetensors file"
                .to_owned()
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            "its tensors end elsewhere than the file does; it is cut short, or has bytes too many".to_owned()
        }
        other => format!("is no valid safetensors file: {other}"),
    }
}
