//! Code itself: cubins, kernels, and code outside of regions and of Linux.

use kiln_plan::gpu::Capability;

use super::{elf, listed};
use crate::testing::{concatenated, cubin, entry_of, region};
use crate::{Coverage, Depth, Extent, Found, Listing, Tally, list_with};

const CUBIN: u16 = 2;
const PTX: u16 = 1;
const ZSTD: u64 = 0x8000;
const LZ4: u64 = 0x2000;

fn gpu(text: &str) -> Capability {
    text.parse().unwrap()
}

fn with_kernels(file: &[u8]) -> Listing {
    list_with(file, Depth::Kernels).unwrap().unwrap()
}

fn zstd(payload: &[u8]) -> Vec<u8> {
    zstd::encode_all(payload, 3).unwrap()
}

/// A block of LZ4 without matches.
fn lz4(payload: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let mut left = payload.len() - 15;
    while left >= 255 {
        block.push(255);
        left -= 255;
    }
    block.push(left as u8);
    block.extend(payload);
    block
}

fn architectures(listing: &Listing) -> Vec<String> {
    let groups = listing.code.iter().flat_map(|code| &code.groups);
    groups.filter_map(|group| Some(group.architecture?.to_string())).collect()
}

#[test]
fn kernels_are_counted_region_by_region_however_they_are_compressed() {
    let [both, one] = [cubin(90, "", &["add", "mul"]), cubin(120, "", &["add"])];
    let ptx = b".version 8.0\n.target sm_80\n.visible .entry add(\n)\n{ ret; }\n.entry mul\n(\n) {}\n// an .entryway\n";
    let file = elf(&[(
        ".nv_fatbin",
        [
            region(&[entry_of(CUBIN, 90, ZSTD, &zstd(&both)), entry_of(CUBIN, 120, LZ4, &lz4(&one))]),
            region(&[entry_of(CUBIN, 90, 0, &both)]),
            region(&[entry_of(PTX, 80, 0, ptx), entry_of(CUBIN, 75, 0, &cubin(75, "", &["add"]))]),
        ]
        .concat(),
    )]);
    let listing = with_kernels(&file);
    let kernels = |text| {
        let verdict = listing.verdict(gpu(text), None).unwrap();
        (verdict.kernels.unwrap(), verdict.absent.into_iter().collect::<Vec<_>>().join(" "))
    };
    let tally = |native, ptx, missing| Tally { native, ptx, missing, unknown: 0 };
    assert_eq!(kernels("9.0"), (tally(4, 2, 0), String::new()));
    assert_eq!(kernels("12.0"), (tally(1, 2, 3), "add mul".into()));
    assert_eq!(kernels("7.5"), (tally(1, 0, 5), "add mul".into()));
    assert_eq!(kernels("7.0"), (tally(0, 0, 6), "add mul".into()));
}

#[test]
fn code_that_reaches_back_is_inflated_and_damaged_code_is_left_unread() {
    let whole = cubin(90, "", &["add"]);
    // Four bytes, then a match that overlaps itself, then the rest.
    let mut block = vec![0x4f, 1, 2, 3, 4, 4, 0, 0];
    block.extend([0x10, 9]);
    let entry = entry_of(CUBIN, 90, LZ4, &block);
    let mut cut = zstd(&whole);
    cut.truncate(cut.len() / 2);
    for entry in [entry, entry_of(CUBIN, 90, ZSTD, &cut), entry_of(CUBIN, 90, 0x4000, &whole)] {
        let listing = with_kernels(&elf(&[(".nv_fatbin", region(&[entry]))]));
        assert_eq!(listing.code[0].alike[0].kernels.as_ref().unwrap().unread, 1);
        let verdict = listing.verdict(gpu("9.0"), None).unwrap();
        assert_eq!((verdict.coverage, verdict.extent), (Coverage::Native, Extent::Served));
    }
}

#[test]
fn a_cubin_tells_its_suffix() {
    for (suffix, serves) in [("", ["10.0", "10.3"].as_slice()), ("a", &["10.0"]), ("f", &["10.0", "10.3"])] {
        let listing = listed(&cubin(100, suffix, &["add"])).unwrap();
        assert_eq!(architectures(&listing), [format!("sm_100{suffix}")]);
        let runs = |text: &&&str| listing.verdict(gpu(text), None).unwrap().coverage == Coverage::Native;
        let all = ["10.0", "10.3", "12.0"];
        assert_eq!(all.iter().filter(runs).copied().collect::<Vec<_>>(), serves);
    }
}

#[test]
fn a_cubin_of_cuda_12_tells_its_suffix_in_its_header() {
    // As ptxas 12.0 to 12.9 write code for sm_90 and sm_90a, and ptxas 12.9 for sm_100a.
    for (abi, flags, name) in [
        (7, 0x5a_055a, "sm_90"),
        (7, 0x5a_0d5a, "sm_90a"),
        (7, 0x3c_0d3c, "sm_60"),
        (8, 0x0600_6402, "sm_100"),
        (8, 0x0600_640a, "sm_100a"),
    ] {
        let mut file = cubin(90, "", &["add"]);
        file[8] = abi;
        file[48..52].copy_from_slice(&u32::to_le_bytes(flags));
        assert_eq!(architectures(&listed(&file).unwrap()), [name]);
        let mut data = vec![7; 4096];
        data.extend(zstd(&file));
        assert_eq!(architectures(&listed(&elf(&[(".rodata", data)])).unwrap()), [name], "in a frame");
    }
}

#[test]
fn compressed_cubins_without_code_are_no_code() {
    let empty = cubin(75, "", &[]);
    for (flags, payload) in [(0, empty.clone()), (ZSTD, zstd(&empty)), (LZ4, lz4(&empty))] {
        let mut hollow = entry_of(CUBIN, 75, flags, &payload);
        hollow[56..64].copy_from_slice(&(empty.len() as u64).to_le_bytes());
        let file = elf(&[(".nv_fatbin", region(&[hollow, entry_of(CUBIN, 90, 0, &cubin(90, "", &["add"]))]))]);
        let verdict = listed(&file).unwrap().verdict(gpu("7.5"), None).unwrap();
        assert_eq!(verdict.coverage, Coverage::Missing);
        assert_eq!(verdict.architectures.iter().map(ToString::to_string).collect::<Vec<_>>(), ["sm_90"]);
    }
}

#[test]
fn ptx_without_anything_in_it_asks_for_no_driver() {
    let empty = b"\n\n// made by nothing\n.version 9.4\n.target sm_75\n.address_size 64\n\n\n".to_vec();
    let ptx = |flags, text: &[u8], payload: &[u8]| {
        let mut entry = entry_of(PTX, 75, flags, payload);
        entry[24..28].copy_from_slice(&[4, 0, 9, 0]);
        entry[56..64].copy_from_slice(&(if flags == 0 { 0 } else { text.len() as u64 }).to_le_bytes());
        entry
    };
    let hollow = || entry_of(CUBIN, 75, 0, &cubin(75, "", &[]));
    for (flags, payload) in [(0, empty.clone()), (ZSTD, zstd(&empty)), (LZ4, lz4(&empty))] {
        let library = region(&[hollow(), ptx(flags, &empty, &payload)]);
        assert_eq!(listed(&elf(&[(".nv_fatbin", library)])).unwrap().verdict(gpu("9.0"), None), None);
        let beside = region(&[ptx(flags, &empty, &payload), entry_of(CUBIN, 90, 0, &cubin(90, "", &["add"]))]);
        let listing = listed(&elf(&[(".nv_fatbin", beside)])).unwrap();
        assert_eq!(listing.verdict(gpu("12.0"), None).unwrap().coverage, Coverage::Missing);
        assert_eq!(listing.verdict(gpu("9.0"), None).unwrap().driver_after, None);
    }
    let full = [&empty[..], b".visible .entry add() { ret; }\n"].concat();
    let listing = listed(&elf(&[(".nv_fatbin", region(&[ptx(0, &full, &full)]))])).unwrap();
    assert_eq!(listing.verdict(gpu("9.0"), None).unwrap().coverage, Coverage::Ptx);
}

#[test]
fn code_lies_at_any_byte_of_data_bare_and_in_frames() {
    let bare = cubin(80, "", &["add"]);
    for shift in [0, 1, 3, 255, 65_530] {
        let mut data = vec![7; shift];
        data.extend(region(&[entry_of(CUBIN, 86, 0, &bare)]));
        data.extend([7; 9]);
        data.extend(&bare);
        data.extend([7; 5]);
        data.extend(zstd(&cubin(90, "a", &["mul"])));
        data.extend([7; 8192]);
        let listing = with_kernels(&elf(&[(".rodata", data)]));
        let places: Vec<&str> = listing.code.iter().map(|code| code.place.as_str()).collect();
        assert_eq!(places, [".rodata", ".rodata (bare cubins)", ".rodata (cubins in Zstandard frames)"], "{shift}");
        assert_eq!(architectures(&listing), ["sm_86", "sm_80", "sm_90a"]);
        assert_eq!(listing.code[1].bytes, bare.len() as u64);
        assert_eq!(listing.verdict(gpu("9.0"), None).unwrap().kernels.unwrap().native, 1);
    }
}

#[test]
fn ptx_as_text_and_libraries_of_windows_are_listed() {
    let listing = listed(b".version 8.7\n.target sm_90a, debug\n.address_size 64\n.entry add() {}\n").unwrap();
    assert_eq!((listing.format, architectures(&listing)), (Found::Ptx, vec!["compute_90a".to_owned()]));
    assert!(listed(b".version of something else\n").is_none());
    let code = region(&[entry_of(CUBIN, 90, 0, &cubin(90, "", &["add"]))]);
    let mut file = b"MZ".to_vec();
    file.resize(60, 0);
    file.extend(64u32.to_le_bytes());
    file.extend(b"PE\0\0\x64\x86\x01\0");
    file.resize(64 + 24, 0);
    file.extend(b".nv_fatb");
    file.extend((code.len() as u32).to_le_bytes());
    file.extend([0; 4]);
    file.extend((code.len() as u32 + 100).to_le_bytes());
    file.extend(128u32.to_le_bytes());
    file.resize(128, 0);
    file.extend(&code);
    file.extend([0; 100]);
    let listing = listed(&file).unwrap();
    assert_eq!((listing.format, architectures(&listing)), (Found::Windows, vec!["sm_90".to_owned()]));
    assert!(listed(b"MZ and nothing else that a library would have").is_none());
}

#[test]
fn a_file_that_serves_a_gpu_in_few_regions_is_for_others() {
    let region_for =
        |numbers: &[u32]| region(&numbers.iter().map(|n| entry_of(CUBIN, *n, 0, &[1; 64])).collect::<Vec<_>>());
    let regions = |both: usize, one: usize| {
        let all = [vec![region_for(&[80, 90]); both], vec![region_for(&[80]); one]].concat().concat();
        listed(&elf(&[(".nv_fatbin", all)])).unwrap()
    };
    let extent = |both, one| regions(both, one).verdict(gpu("9.0"), None).unwrap().extent;
    assert_eq!(extent(1, 12), Extent::Thin);
    assert_eq!(extent(1, 11), Extent::Partial);
    assert_eq!(extent(1, 1), Extent::Served);
    assert_eq!(regions(1, 0).verdict(gpu("12.0"), None).unwrap().coverage, Coverage::Missing);
    let verdict = regions(1, 29).verdict(gpu("9.0"), None).unwrap();
    assert_eq!(
        verdict.to_string(),
        "too little: native (sm_90) in 1 of 30 regions; a newer release of it may have it; if there is none, compile it for sm_90 \
         or with PTX"
    );
}

#[test]
fn the_driver_follows_from_the_release_the_compression_and_the_language() {
    let version = |mut entry: Vec<u8>, major: u16, minor: u16| {
        entry[24..26].copy_from_slice(&minor.to_le_bytes());
        entry[26..28].copy_from_slice(&major.to_le_bytes());
        entry
    };
    let driver = |entry: Vec<u8>, cuda| {
        let listing = listed(&elf(&[(".nv_fatbin", region(&[entry]))])).unwrap();
        let verdict = listing.verdict(gpu("9.0"), cuda).unwrap();
        Some(format!("{} {}", verdict.driver?, verdict.driver_for?))
    };
    let code = |flags| entry_of(CUBIN, 90, flags, &[1; 64]);
    let ptx = || entry_of(PTX, 80, 0, &[1; 64]);
    assert_eq!(driver(code(0), None), None);
    assert_eq!(driver(code(0), Some(12)).as_deref(), Some("525.60.13 CUDA 12"));
    assert_eq!(driver(code(ZSTD), Some(12)).as_deref(), Some("550.54.14 Zstandard"));
    assert_eq!(driver(code(ZSTD), Some(13)).as_deref(), Some("580 CUDA 13"));
    assert_eq!(driver(version(code(0), 1, 8), None).as_deref(), Some("580 CUDA 13"));
    assert_eq!(driver(version(code(0), 1, 7), None), None);
    assert_eq!(driver(version(ptx(), 8, 7), Some(12)).as_deref(), Some("570.26 PTX 8.7"));
    assert_eq!(driver(version(ptx(), 9, 0), None).as_deref(), Some("580.65.06 PTX 9.0"));
}

#[test]
fn the_driver_is_that_of_the_code_which_is_taken_whatever_else_there_is() {
    let version = |mut entry: Vec<u8>, major: u8, minor: u8| {
        entry[24..28].copy_from_slice(&[minor, 0, major, 0]);
        entry
    };
    let ptx = |number, major, minor| {
        let text = b".version 8.0\n.target sm_80\n.visible .entry add(\n)\n{ ret; }\n";
        version(entry_of(PTX, number, 0, text), major, minor)
    };
    let verdict = |entries: &[Vec<u8>], depth| {
        let file = elf(&[(".nv_fatbin", region(entries))]);
        list_with(file.as_slice(), depth).unwrap().unwrap().verdict(gpu("9.0"), None).unwrap()
    };
    // The driver compiles the latest of two, or none where there is machine code.
    let [old, new] = [ptx(80, 9, 0), ptx(90, 8, 0)];
    let native = entry_of(CUBIN, 90, 0, &cubin(90, "", &["add"]));
    for depth in [Depth::Headers, Depth::Kernels] {
        assert_eq!(verdict(&[old.clone(), new.clone()], depth).ptx.unwrap().to_string(), "8.0");
        assert_eq!(verdict(&[old.clone(), native.clone()], depth).ptx, None);
    }
    // Code for earlier minors that is not taken is compressed as it likes.
    let packed = entry_of(CUBIN, 80, ZSTD, &zstd(&cubin(80, "", &["add"])));
    let later = entry_of(CUBIN, 89, 0, &cubin(89, "", &["add"]));
    let file = elf(&[(".nv_fatbin", region(&[packed, later]))]);
    let listing = with_kernels(&file);
    assert_eq!(listing.verdict(gpu("8.9"), None).unwrap().driver, None);
    assert_eq!(listing.verdict(gpu("8.0"), None).unwrap().driver_for.as_deref(), Some("Zstandard"));
    // A language newer than all that is known.
    let unknown = verdict(&[ptx(90, 9, 99)], Depth::Headers);
    assert_eq!((unknown.driver, unknown.driver_for.as_deref()), (None, Some("PTX 9.99")));
    assert!(unknown.driver_after.is_some());
}

#[test]
fn code_for_blackwell_says_in_its_note_that_it_is_of_cuda_13() {
    for (suffix, flag) in [("", 0), ("a", 0x10_0000), ("f", 0x20_0000)] {
        for (release, driver) in [("13.0", Some("580 CUDA 13")), ("12.9", None)] {
            let mut code = cubin(100, suffix, &["add"]);
            code.extend(format!("Cuda compilation tools, release {release}, V{release}.48\0").bytes());
            let said = |file: &[u8]| {
                let verdict = with_kernels(file).verdict(gpu("10.0"), None).unwrap();
                Some(format!("{} {}", verdict.driver?, verdict.driver_for?))
            };
            let mut entry = entry_of(CUBIN, 100, flag | ZSTD, &zstd(&code));
            entry[24..28].copy_from_slice(&[8, 0, 1, 0]);
            let of_zstandard = driver.or(Some("550.54.14 Zstandard"));
            assert_eq!(said(&elf(&[(".nv_fatbin", region(&[entry]))])).as_deref(), of_zstandard, "{release}{suffix}");
            assert_eq!(said(&code).as_deref(), driver, "{release}{suffix}");
        }
    }
}

#[test]
fn ptx_is_known_whatever_stands_before_its_first_directive() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry add() { ret; }\n";
    let before =
        ["", "\u{feff}", "\n\n  ", "// by hand\n", "/* a\n banner */ // and\n", "\u{feff}//\n// Generated\n\n"];
    for start in before {
        for file in [format!("{start}{text}"), format!("{start}{text}").replace('\n', "\r\n")] {
            let listing = listed(file.as_bytes()).unwrap();
            assert_eq!(
                (listing.format, architectures(&listing)),
                (Found::Ptx, vec!["compute_80".to_owned()]),
                "{file}"
            );
        }
    }
    for other in ["// a program\nint main() {}\n", "/* .version 8.0 */", "        ", "/*"] {
        assert_eq!(list_with(other.as_bytes(), Depth::Headers).unwrap(), None, "{other}");
    }
}

#[test]
fn cubins_one_after_the_other_and_archives_in_archives_are_seen() {
    let cubins = [cubin(80, "", &["add"]), vec![0; 24], cubin(90, "a", &["add", "mul"])].concat();
    let listing = with_kernels(&cubins);
    assert_eq!(
        (listing.format, architectures(&listing)),
        (Found::Cubin, vec!["sm_80".to_owned(), "sm_90a".to_owned()])
    );
    assert_eq!(listing.code[0].kernels(gpu("9.0")).unwrap().native, 2);
    let member = |content: &[u8]| {
        let mut bytes = format!("{:<48}{:<10}`\n", "a.o/", content.len()).into_bytes();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        [b"!<arch>\n".to_vec(), bytes].concat()
    };
    let object = crate::testing::Library::new().object().region(&[entry_of(CUBIN, 90, 0, &cubin(90, "", &["add"]))]);
    let nested = member(&member(&object.finish()));
    assert_eq!(architectures(&listed(&nested).unwrap()), ["sm_90"]);
    let deep = (0..8).fold(object.finish(), |file, _| member(&file));
    assert!(listed(&deep).unwrap().unseen[0].contains("there is an archive in 4 others"));
    assert!(listed(b"!<thin>\n").unwrap().unseen[0].contains("files of their own"));
}

#[test]
fn pieces_that_share_a_payload_are_code_of_their_own() {
    let [old, exact, family] = [cubin(80, "", &["add"]), cubin(90, "a", &["add", "mul"]), cubin(100, "f", &["add"])];
    let ptx = b".version 9.4\n.target sm_120\n.visible .entry add(\n)\n{ ret; }\n";
    let entry = concatenated(&[
        (CUBIN, 80, 0, &old),
        (CUBIN, 90, 0x10_0000, &exact),
        (CUBIN, 100, 0x120_0000, &family),
        (PTX, 120, 0, ptx),
    ]);
    let file = elf(&[(".nv_fatbin", region(std::slice::from_ref(&entry)))]);
    let listing = with_kernels(&file);
    assert_eq!(architectures(&listing), ["compute_120", "sm_80", "sm_90a", "sm_100f"]);
    let verdict = |text| listing.verdict(gpu(text), None).unwrap();
    assert_eq!(verdict("9.0").kernels.unwrap().native, 2);
    assert_eq!((verdict("10.3").coverage, verdict("12.1").coverage), (Coverage::Native, Coverage::Ptx));
    assert_eq!(verdict("7.5").coverage, Coverage::Missing);
    assert_eq!(verdict("8.0").driver_for.as_deref(), Some("CUDA 13"));
    let mut damaged = entry;
    damaged[64..68].copy_from_slice(&900u32.to_le_bytes());
    let listing = listed(&elf(&[(".nv_fatbin", region(&[damaged]))])).unwrap();
    assert!(listing.malformed[0].contains("a table of code is longer than its header"), "{:?}", listing.malformed);
}
