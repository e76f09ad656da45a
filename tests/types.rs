//! gguf's table of element types beside ggml's own. The table is written by hand, because gguf does not
//! link ggml; a new ggml may add, drop or resize a type.

use gust::ggml::DType;
use gust::gguf::TensorType;

#[test]
fn the_type_table_is_ggmls() {
    for id in 0..256 {
        let ours = TensorType::from_ggml_id(id);
        let theirs = DType::from_id(id);
        let row = |name: &str, block: i64, bytes: usize| format!("{name}: {bytes} bytes a {block}");
        assert_eq!(
            ours.map(|ty| row(ty.name(), ty.block_size() as i64, ty.type_size() as usize)),
            theirs.map(|ty| row(ty.name(), ty.block_size(), ty.row_size(ty.block_size()))),
            "type {id}: mend the table in src/gguf/types.rs"
        );
    }
}
