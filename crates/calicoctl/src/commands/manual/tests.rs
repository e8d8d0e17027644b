#![allow(clippy::unwrap_used)]
use super::*;

fn page_of(file: &str) -> String {
    let found = pages().into_iter().find(|(name, _)| name == file);
    String::from_utf8(found.unwrap_or_else(|| panic!("no page {file}")).1).unwrap()
}

#[test]
fn every_command_has_a_page_with_name_synopsis_and_examples() {
    let pages = pages();
    assert!(pages.len() >= 40, "only {} pages", pages.len());
    for (file, page) in pages {
        let page = String::from_utf8(page).unwrap();
        for heading in [".SH NAME", ".SH \"SYNOPSIS\"", ".SH \"EXAMPLES\""] {
            assert!(page.contains(heading), "{file} lacks {heading}:\n{page}");
        }
        let request = |line: &&str| line.starts_with('.') || line.starts_with('\'');
        for line in page.lines().filter(request) {
            let name: String = line[1..].chars().take_while(|c| c.is_ascii_alphabetic()).collect();
            let known = ["TH", "SH", "SS", "nf", "fi", "TP", "RS", "RE", "BR", "PP", "IP", "ie", "el", "ds", "br"];
            assert!(known.contains(&name.as_str()), "{file}: {line:?} is no request that we make");
        }
        assert!(!file.contains("__"), "{file}: hidden commands have no page");
    }
}

#[test]
fn the_order_of_words_is_that_in_which_they_are_typed() {
    let page = page_of("calicoctl-container-ip-add.1");
    assert!(page.contains("calicoctl container <CONTAINER> ip add <IP>"), "{page}");
    assert!(page.contains("calicoctl container workload_A ip add ipv6"), "{page}");
    assert!(page.contains(".BR calicoctl\\-container\\-ip (1)"), "{page}");
}

#[test]
fn the_first_page_leads_to_the_others_and_tells_the_environment() {
    let page = page_of("calicoctl.1");
    assert!(page.contains(".BR calicoctl\\-container (1)") && page.contains(".SH \"ENVIRONMENT\""), "{page}");
    assert!(page.contains("ETCD_ENDPOINTS"), "{page}");
}

#[test]
fn they_are_written_into_a_folder_that_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&Manual { dir: dir.path().join("a/man1") }).unwrap();
    let written = std::fs::read_dir(dir.path().join("a/man1")).unwrap().count();
    assert!(output.text.starts_with(&format!("{written} manual pages")), "{}", output.text);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = run(&Manual { dir: file }).unwrap_err().to_string();
    assert!(refused.contains("cannot be written") && refused.contains("hint:"), "{refused}");
}
