//! `gust bench` as a user runs it: the rows of the built-in model.

use std::process::Command;

fn bench(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_gust")).arg("bench").args(args).output().unwrap()
}

#[test]
fn json_is_one_array_of_rows() {
    let output = bench(&["-p", "8", "-n", "2", "-d", "0,5", "-r", "1", "-t", "1", "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let cases: Vec<_> = rows
        .iter()
        .map(|row| ["n_prompt", "n_gen", "n_depth"].map(|key| row[key].as_u64()))
        .collect();
    let case = |n_prompt, n_gen, n_depth| [Some(n_prompt), Some(n_gen), Some(n_depth)];
    assert_eq!(cases, [case(8, 0, 0), case(0, 2, 0), case(8, 0, 5), case(0, 2, 5)]);
    for row in &rows {
        assert_eq!(
            (row["n_threads"].as_u64(), row["extrapolated"].as_bool()),
            (Some(1), Some(false))
        );
        assert_eq!(row["n_gpu_layers"], 0);
        assert_eq!((row["type_k"].as_str(), row["type_v"].as_str()), (Some("f16"), Some("f16")));
        assert_eq!(row["samples"].as_array().unwrap().len(), 1);
        assert_eq!(row["tokens_per_s"], row["samples"][0]);
        assert_eq!(row["tokens_per_s_min"], row["tokens_per_s_max"]);
        assert_eq!(row["tokens_per_s_stddev"], 0.0);
        for key in ["tokens_per_s", "gb_per_s", "bandwidth_share", "machine_gb_per_s"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key} in {row}");
        }
        assert!(row["model"].as_str().unwrap().contains("built-in"));
    }
}

#[test]
fn tables_have_a_line_per_case() {
    for (format, n_head) in [("md", 2), ("CSV", 1)] {
        let output = bench(&["-p", "4,0", "-n", "1", "-r", "2", "-t", "1", "-o", format]);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), n_head + 2, "{text}");
    }
}

#[test]
fn a_failed_run_leaves_valid_json() {
    let output = bench(&["-p", "8", "-n", "0", "--ctx", "4294967295", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"[]\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("GiB"));
}

#[test]
fn wrong_usage_exits_with_2() {
    let output = bench(&["--shape", "medium-3.5", "--quant", "Q9_K"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("IQ4_XS"));
}
