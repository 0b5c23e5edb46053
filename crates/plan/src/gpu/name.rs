//! Names of GPUs as people, NVIDIA's pages and `nvidia-smi` write them, and which known name an unknown one may mean.
//!
//! A name is compared by its *key*: words without case, separators and makers. What else stands in a name says nothing
//! about the capability: sizes of memory, form factors, `Laptop GPU`, profiles of MIG and vGPU. It is dropped where the
//! whole name is not known.

/// Words of a name that differ between boards with the same GPU (NVIDIA's product pages, and `nvidia-smi -L`).
const BOARD: [&str; 42] = [
    "ac",
    "accelerator",
    "design",
    "developer",
    "dgx",
    "dgxs",
    "edition",
    "embedded",
    "fhhl",
    "gddr5",
    "gddr5x",
    "gddr6",
    "gddr6x",
    "gddr7",
    "generation",
    "gpu",
    "graphics",
    "grid",
    "hbm2",
    "hbm2e",
    "hbm3",
    "hbm3e",
    "hgx",
    "kit",
    "laptop",
    "lc",
    "max",
    "maxq",
    "mobile",
    "module",
    "notebook",
    "nvgpu",
    "nvl",
    "oam",
    "pcie",
    "q",
    "3e",
    "sxm",
    "server",
    "tesla",
    "with",
    "workstation",
];
/// Words that may stand before any name.
const MAKERS: [&str; 3] = ["nvidia", "geforce", "tesla"];

/// Returns a name without what people write in different ways: case, separators, and makers in front.
pub(super) fn key(name: &str) -> String {
    let joined = words(name).concat();
    let mut rest = joined.as_str();
    for maker in MAKERS {
        rest = rest.strip_prefix(maker).unwrap_or(rest);
    }
    rest.to_owned()
}

/// Returns the key of a name without the words that say nothing about the GPU's capability; empty where none is left.
pub(super) fn model_key(name: &str) -> String {
    key(&model(name).join(" "))
}

/// Returns the words of a name that say something about the GPU's capability.
fn model(name: &str) -> Vec<String> {
    let mut words = words(name);
    // `H100 80GB HBM3 MIG 1g.10gb`: what follows is the instance.
    if let Some(instance) = words.iter().position(|word| word == "mig").filter(|at| *at > 0) {
        words.truncate(instance);
    }
    if let Some(model) = before_profile(&words) {
        words.truncate(model);
    }
    words.retain(|word| !is_of_the_board(word));
    words
}

/// Splits a name at whitespace, dashes and brackets; words in lower case.
fn words(name: &str) -> Vec<String> {
    let separator = |c: char| c.is_whitespace() || "-_()[]/,".contains(c);
    name.split(separator).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Returns how many words stand before the profile of a virtual GPU: `A10-24Q`, `A100-1-5C`, `A100-1-5CME`.
fn before_profile(words: &[String]) -> Option<usize> {
    let last = words.last()?.strip_suffix("me").unwrap_or(words.last()?);
    let profile = last.strip_suffix(['a', 'b', 'c', 'q']).is_some_and(is_number);
    let slices = words.len().checked_sub(2).is_some_and(|at| at > 0 && words[at].len() == 1 && is_number(&words[at]));
    (profile && words.len() > 1).then(|| words.len() - if slices { 2 } else { 1 })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_of_the_board(word: &str) -> bool {
    let size = word.strip_suffix("gb").or_else(|| word.strip_suffix('g')).is_some_and(is_number);
    let numbered = ["sxm", "nvl"].iter().any(|form| word.strip_prefix(form).is_some_and(is_number));
    size || numbered || BOARD.contains(&word)
}

/// Whether another name begins or ends with the words of this one: `RTX 6000 Ada` with `RTX 6000`, `GP100` not with `P100`.
pub(super) fn is_part(part: &str, whole: &str) -> bool {
    let (part, whole) = (pieces(&model(part)), pieces(&words(whole)));
    let long_enough = part.iter().map(|piece| piece.len()).sum::<usize>() >= 4;
    long_enough && part.len() < whole.len() && (whole.starts_with(&part) || whole.ends_with(&part))
}

/// Whether a name is another but for a slip of the hand that cannot change which GPU is meant: a letter for a digit that
/// looks like it, or one letter of a word. All numbers and all single letters, which tell GPUs apart, are the same.
pub(super) fn is_slip(written: &str, known: &str) -> bool {
    // No name is so long, and comparing takes as long as both lengths multiplied.
    if written.len() > 64 {
        return false;
    }
    let written: Vec<String> = model(written).iter().map(|word| look_alike(word)).collect();
    let (written, known) = (pieces(&written), pieces(&words(known)));
    let slip = |one: &str, other: &str| {
        let words = one.len().min(other.len()) >= 3 && !is_number(one) && !is_number(other);
        words && strsim::damerau_levenshtein(one, other) == 1
    };
    let differing: Vec<_> = written.iter().zip(&known).filter(|(one, other)| one != other).collect();
    written.len() == known.len() && differing.len() <= 1 && differing.iter().all(|(one, other)| slip(one, other))
}

/// Reads letters as digits where they stand beside one: `h10o` as `h100`.
fn look_alike(word: &str) -> String {
    let mut read = String::with_capacity(word.len());
    for letter in word.chars() {
        let digit = match letter {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        };
        let beside = read.ends_with(|c: char| c.is_ascii_digit());
        read.push(if beside { digit } else { letter });
    }
    read
}

/// Splits words between letters and digits, without makers.
fn pieces(words: &[String]) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for word in words.iter().filter(|word| !MAKERS.contains(&word.as_str())) {
        let begun = pieces.len();
        for letter in word.chars() {
            let digit = letter.is_ascii_digit();
            let last = pieces[begun..].last().and_then(|piece| piece.chars().last());
            match pieces.last_mut() {
                Some(piece) if last.is_some_and(|last| last.is_ascii_digit() == digit) => piece.push(letter),
                _ => pieces.push(letter.to_string()),
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_board_is_called_besides_its_gpu_is_dropped() {
        let names = [
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "h100"),
            ("NVIDIA A100-SXM4-40GB", "a100"),
            ("NVIDIA A10-24Q", "a10"),
            ("NVIDIA A100-1-5CME", "a100"),
            ("GRID T4-16Q", "t4"),
            ("NVIDIA H20-3e", "h20"),
            ("NVIDIA GeForce RTX 2080 Super with Max-Q Design", "rtx2080super"),
            ("NVIDIA B300 SXM6 AC", "b300"),
            ("Orin (nvgpu)", "orin"),
            ("NVIDIA", ""),
            ("MIG", "mig"),
        ];
        for (name, expected) in names {
            assert_eq!(model_key(name), expected, "{name}");
        }
    }

    #[test]
    fn a_slip_changes_no_number_and_no_single_letter() {
        for (written, known) in
            [("H10O", "H100"), ("RXT 4090", "GeForce RTX 4090"), ("Quadr RTX 8000", "Quadro RTX 8000")]
        {
            assert!(is_slip(written, known), "{written}");
        }
        let apart = [
            ("P100", "V100"),
            ("P40", "A40"),
            ("GTX 1060", "GeForce GTX 1660"),
            ("MX570", "GeForce MX550"),
            ("GB202", "GB200"),
            ("RTX 490", "GeForce RTX 4090"),
            ("L40X", "L40S"),
        ];
        for (written, known) in apart {
            assert!(!is_slip(written, known), "{written}");
        }
    }
}
