//! Where the tensors of a safetensors file begin and end.
//!
//! It reads the header and believes nothing of it: whatever is not exactly such a file is not one, and is cut like any
//! other. What a tensor means is not known here.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// A header larger than this is not read; of real ones few have a megabyte.
const MAX_HEADER: u64 = 32 << 20;

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Tensor { data_offsets: (u64, u64) },
    // `__metadata__`, and what else may come; it has no place in the data.
    Other(IgnoredAny),
}

/// Returns how long the header is, with the number in front of it, by the first 9 bytes of a file; none if it has none.
pub(super) fn header_len(start: &[u8], file_len: u64) -> Option<u64> {
    let len = u64::from_le_bytes(start.get(..8)?.try_into().ok()?);
    let looks_right = start.get(8) == Some(&b'{') && (2..=MAX_HEADER).contains(&len);
    (looks_right && len + 8 <= file_len).then(|| len + 8)
}

/// Returns the ends of the parts of a file, by its header with the number in front: the header, then one tensor each.
pub(super) fn ends(header: &[u8], file_len: u64) -> Option<Vec<u64>> {
    let start = header.len() as u64;
    let entries: HashMap<String, Entry> = serde_json::from_slice(header.get(8..)?).ok()?;
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for (name, entry) in &entries {
        match entry {
            Entry::Tensor { data_offsets } => spans.push(*data_offsets),
            Entry::Other(_) if name == "__metadata__" => {}
            Entry::Other(_) => return None,
        }
    }
    spans.sort_unstable();
    let mut ends = vec![start];
    let mut at = 0;
    for (begin, end) in spans {
        // Tensors fill the data without holes, one after the other; the format says so.
        if begin != at || end < begin {
            return None;
        }
        at = end;
        let end = start.checked_add(end).filter(|&end| end <= file_len)?;
        if ends.last() != Some(&end) {
            ends.push(end);
        }
    }
    (ends.len() > 1 && ends.last() == Some(&file_len)).then_some(ends)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Builds a file with tensors of some contents, in their order.
    pub(in crate::remote::objects) fn file_of(tensors: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let mut at = 0;
        for (name, bytes) in tensors {
            let entry =
                serde_json::json!({"dtype": "U8", "shape": [bytes.len()], "data_offsets": [at, at + bytes.len()]});
            header.insert(name.clone(), entry);
            at += bytes.len();
        }
        header.insert("__metadata__".to_owned(), serde_json::json!({"format": "pt"}));
        let header = serde_json::Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        for (_, bytes) in tensors {
            file.extend_from_slice(bytes);
        }
        file
    }

    fn ends_of(file: &[u8]) -> Option<Vec<u64>> {
        let len = header_len(file, file.len() as u64)?;
        ends(file.get(..len as usize)?, file.len() as u64)
    }

    #[test]
    fn tensors_are_found() {
        let file = file_of(&[
            ("a".into(), vec![1; 10]),
            ("b".into(), vec![]),
            ("c".into(), vec![2; 5]),
        ]);
        let ends = ends_of(&file).expect("a good file");
        let header = file.len() as u64 - 15;
        assert_eq!(ends, [header, header + 10, header + 15]);
        let mut longer = file.clone();
        longer.push(0);
        assert_eq!(ends_of(&longer), None, "bytes after the last tensor belong to nothing");
        assert_eq!(ends_of(&file[..file.len() - 1]), None);
    }

    #[test]
    fn a_hostile_header_is_a_plain_file() {
        let with = |header: &str, data: usize| {
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend_from_slice(header.as_bytes());
            file.resize(file.len() + data, 0);
            ends_of(&file)
        };
        assert!(with(r#"{"a":{"data_offsets":[0,4]}}"#, 4).is_some());
        for (header, data) in [
            (r#"{"a":{"data_offsets":[0,18446744073709551615]}}"#, 4),
            (r#"{"a":{"data_offsets":[4,0]}}"#, 4),
            (r#"{"a":{"data_offsets":[0,3]},"b":{"data_offsets":[2,4]}}"#, 4),
            (r#"{"a":{"data_offsets":[0,-1]}}"#, 4),
            (r#"{"a":{"data_offsets":[0]}}"#, 4),
            (r#"{"a":7}"#, 0),
            ("{}", 0),
            ("{", 4),
        ] {
            assert_eq!(with(header, data), None, "{header}");
        }
        let mut huge = u64::MAX.to_le_bytes().to_vec();
        huge.push(b'{');
        assert_eq!(ends_of(&huge), None);
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert_eq!(with(&deep, 0), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            len in 0u64..300,
            json in "\\{(\"[a-c]\":\\{\"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\},?){0,3}\\}",
        ) {
            let _ = ends_of(&bytes);
            let mut file = len.to_le_bytes().to_vec();
            file.extend_from_slice(json.as_bytes());
            file.extend_from_slice(&bytes);
            if let Some(ends) = ends_of(&file) {
                prop_assert!(ends.is_sorted() && ends.last() == Some(&(file.len() as u64)));
            }
        }
    }
}
