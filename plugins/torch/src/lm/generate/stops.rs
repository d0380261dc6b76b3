//! What ends a completion before its length does: end tokens, and texts that may begin and end inside tokens.

use super::Finish;

/// Bytes that do not make a character (yet) are decoded to this.
const INCOMPLETE: char = char::REPLACEMENT_CHARACTER;

/// Returns the text of token ids, without special tokens; nothing where they have none.
pub type Decode<'a> = dyn Fn(&[i64]) -> Option<String> + 'a;

/// What ends a completion.
pub struct Stops<'a> {
    pub eos_token_ids: &'a [i64],
    /// Not empty, each of them.
    pub texts: Vec<&'a str>,
    pub decode: &'a Decode<'a>,
}

impl<'a> Stops<'a> {
    pub fn new(eos_token_ids: &'a [i64], texts: &'a [String], decode: &'a Decode<'a>) -> Self {
        Self {
            eos_token_ids,
            texts: texts
                .iter()
                .map(String::as_str)
                .filter(|text| !text.is_empty())
                .collect(),
            decode,
        }
    }
}

/// Looks for stop texts in a completion that grows token by token, reading each token once.
///
/// What a token adds to a text depends on the tokens before it: spaces between words, characters whose bytes are spread
/// over tokens. So it is the difference between decoding the last few tokens with and without it, as in
/// text-generation-inference's and vLLM's `detokenize_incrementally`.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// First of the tokens that are decoded again, for the sake of what follows them.
    context_start: usize,
    /// Tokens whose text has been read.
    num_read: usize,
    /// The end of the text that was read, in which a stop text may have begun.
    tail: String,
}

impl Watch {
    /// Returns what the last token of the completion ends it with; is called after every token.
    pub fn finish(&mut self, completion: &[i64], stops: &Stops<'_>) -> Option<Finish> {
        if stops.eos_token_ids.contains(completion.last()?) {
            return Some(Finish::Eos);
        }
        if stops.texts.is_empty() {
            return None;
        }
        let decode = |ids: &[i64]| (stops.decode)(ids).unwrap_or_default();
        let context = decode(&completion[self.context_start..self.num_read]);
        let text = decode(&completion[self.context_start..]);
        let new = text.strip_prefix(&context);
        let read = match new {
            Some(new) => format!("{}{new}", self.tail),
            // A decoder that takes back what it has written is read from the beginning.
            None => decode(completion),
        };
        if stops.texts.iter().any(|stop| read.contains(stop)) {
            return Some(Finish::Stop);
        }
        if new == Some("") || read.ends_with(INCOMPLETE) {
            // A special token, or the beginning of a character: it is read with what comes next.
            return None;
        }
        self.context_start = self.num_read;
        self.num_read = completion.len();
        let longest = stops.texts.iter().map(|stop| stop.len()).max().unwrap_or(0);
        let mut cut = read.len().saturating_sub(longest);
        while !read.is_char_boundary(cut) {
            cut -= 1;
        }
        self.tail = read[cut..].to_owned();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds tokens whose texts are these bytes, and returns after how many of them the completion ends.
    fn ends_after(stops: &[&str], tokens: &[&[u8]]) -> Option<(usize, Finish)> {
        let decode = |ids: &[i64]| {
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokens[id as usize].to_vec()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let stops = Stops {
            eos_token_ids: &[],
            texts: stops.to_vec(),
            decode: &decode,
        };
        let (mut watch, mut completion) = (Watch::default(), Vec::new());
        for id in 0..tokens.len() {
            completion.push(id as i64);
            if let Some(finish) = watch.finish(&completion, &stops) {
                return Some((completion.len(), finish));
            }
        }
        None
    }

    #[test]
    fn a_stop_text_begins_and_ends_inside_tokens() {
        assert_eq!(
            ends_after(&["END"], &[b"xE", b"N", b"Dy", b"z"]),
            Some((3, Finish::Stop))
        );
        assert_eq!(
            ends_after(&["END"], &[b"E", b"N", b"E", b"ND"]),
            Some((4, Finish::Stop))
        );
        assert_eq!(ends_after(&["aab"], &[b"a", b"a", b"a", b"b"]), Some((4, Finish::Stop)));
        assert_eq!(ends_after(&["END"], &[b"EN", b"d", b"ND"]), None);
        assert_eq!(ends_after(&["q", "END"], &[b"EN", b"D"]), Some((2, Finish::Stop)));
    }

    #[test]
    fn characters_whose_bytes_are_spread_over_tokens() {
        let euro = "€".as_bytes();
        assert_eq!(
            ends_after(&["€"], &[b"1", &euro[..1], &euro[1..2], &euro[2..]]),
            Some((4, Finish::Stop))
        );
        // The stop text ends in the token that begins the character, which need not be complete.
        assert_eq!(
            ends_after(&["1."], &[b"1", b".\xe2", &euro[1..]]),
            Some((2, Finish::Stop))
        );
        // It begins in the token that ends a character.
        assert_eq!(ends_after(&["€!"], &[b"a\xe2\x82", b"\xac!?"]), Some((2, Finish::Stop)));
        // Bytes that never become a character hide nothing.
        assert_eq!(
            ends_after(&["END"], &[b"\xff", b"\xfe", b"E", b"ND"]),
            Some((4, Finish::Stop))
        );
        let family = "👨‍👩‍👧".as_bytes();
        let bytes: Vec<&[u8]> = family.chunks(1).collect();
        assert_eq!(ends_after(&["👧"], &bytes), Some((family.len(), Finish::Stop)));
    }

    #[test]
    fn spaces_that_a_decoder_writes_between_words() {
        let words = ["a", "b", "", "c"];
        let decode = |ids: &[i64]| {
            let list: Vec<&str> = ids
                .iter()
                .map(|&id| words[id as usize])
                .filter(|word| !word.is_empty())
                .collect();
            Some(list.join(" "))
        };
        let stops = Stops {
            eos_token_ids: &[],
            texts: vec!["b c"],
            decode: &decode,
        };
        let mut watch = Watch::default();
        assert_eq!(watch.finish(&[0], &stops), None);
        assert_eq!(watch.finish(&[0, 1], &stops), None);
        assert_eq!(watch.finish(&[0, 1, 2], &stops), None, "a special token has no text");
        assert_eq!(watch.finish(&[0, 1, 2, 3], &stops), Some(Finish::Stop));
    }

    #[test]
    fn end_tokens_come_before_stop_texts() {
        let decode = |ids: &[i64]| Some("END".repeat(ids.len()));
        let stops = Stops {
            eos_token_ids: &[7],
            texts: vec!["END"],
            decode: &decode,
        };
        assert_eq!(Watch::default().finish(&[7], &stops), Some(Finish::Eos));
        assert_eq!(Watch::default().finish(&[8], &stops), Some(Finish::Stop));
    }
}
