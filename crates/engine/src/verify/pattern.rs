//! Patterns of paths: `*` stands for any characters, `?` for one; a pattern begins at any directory.

/// Tells if a path, or its end from some directory on, is as a pattern says.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let starts = std::iter::once(0).chain(path.match_indices('/').map(|(at, _)| at + 1));
    let pattern = pattern.trim_start_matches('/');
    starts.into_iter().any(|start| fits(pattern.as_bytes(), &path.as_bytes()[start..]))
}

/// Goes back to the last `*` where it does not fit: in time as long as both lengths multiplied, at most.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(letter) if *letter == b'?' || *letter == text[read] => {
                at += 1;
                read += 1;
            }
            _ => match &mut star {
                Some((back, from)) => {
                    *from += 1;
                    (at, read) = (*back + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_pattern_begins_at_any_directory() {
        let path = "opt/venv/lib/python3.12/site-packages/vllm/_flashmla_C.abi3.so";
        for pattern in ["vllm/_flashmla*", "_flashmla_C.abi3.so", "*.so", "/opt/venv/*", "vllm/_flash???_C*", "*"] {
            assert!(matches(pattern, path), "{pattern}");
        }
        for pattern in ["flashmla*", "vllm/_flashmla", "llm/_flashmla*", "", "vllm"] {
            assert!(!matches(pattern, path), "{pattern}");
        }
    }
}
