//! Flags that say which type each tensor gets; shared by `quantize` and `convert`.
//!
//! What they mean stands in `quantize::Recipe`. A flag's text becomes a value here, while the command line
//! is parsed, so that a misspelt type is a wrong usage.

use std::path::PathBuf;

use anyhow::Result;
use regex::Regex;

use super::plan_table::first_of;
use crate::export::PlannedTensor;
use crate::gguf::TensorType;
use crate::model::{MIXES, Mix};
use crate::quantize::{self, Imatrix, Recipe, name_pattern};
use crate::term::{Printer, units};

/// Flags about the types of tensors.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Types")]
pub struct RecipeArgs {
    /// Importance matrix, from `gust imatrix` or llama-imatrix
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Type for the tensors whose name matches; may be given again, the first match counts
    #[arg(long, value_name = "REGEX=TYPE", value_parser = tensor_type)]
    pub tensor_type: Vec<(Regex, TensorType)>,
    /// Type of output.weight
    #[arg(long, alias = "output-tensor-type", value_name = "TYPE", value_parser = weight_type)]
    pub output_type: Option<TensorType>,
    /// Type of token_embd.weight
    #[arg(long, alias = "token-embedding-type", value_name = "TYPE", value_parser = weight_type)]
    pub embed_type: Option<TensorType>,
    /// One type for all matrices, no mix of several
    #[arg(long)]
    pub pure: bool,
    /// Print the plan, write nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl RecipeArgs {
    /// `mix` with what the flags change about it.
    pub fn recipe(&self, mix: &'static Mix) -> Recipe {
        Recipe {
            mix,
            overrides: self.tensor_type.clone(),
            output_type: self.output_type,
            embed_type: self.embed_type,
            pure: self.pure,
        }
    }

    /// The importance matrix, if one is given.
    pub fn imatrix(&self) -> Result<Option<Imatrix>> {
        Ok(self.imatrix.as_deref().map(Imatrix::open).transpose()?)
    }

    /// Tells which tensors an importance matrix says nothing about: it has no entry, or only zeros.
    pub fn warn(&self, missing: &[String], tensors: &[PlannedTensor<'_>], printer: &Printer) {
        let Some(path) = &self.imatrix else { return };
        let about = |names: &[String]| {
            let tensors = units::count(names.len() as u64, "tensor");
            format!("{tensors}: {}", first_of(names))
        };
        if !missing.is_empty() {
            printer.warn(format!("{}: no entry for {}", path.display(), about(missing)));
        }
        let zero = quantize::unweighted(tensors);
        if !zero.is_empty() {
            let what = "only zeros, which may make them useless, for";
            printer.warn(format!("{}: {what} {}", path.display(), about(&zero)));
        }
    }

    /// Everything that changes bytes, in words: what an interrupted run is compared with.
    pub fn describe(&self, mix: &Mix) -> String {
        let mut text = format!("type {}", mix.name);
        for (name, ty) in &self.tensor_type {
            text += &format!(", --tensor-type {name}={ty}");
        }
        let named = [("--output-type", self.output_type), ("--embed-type", self.embed_type)];
        for (flag, ty) in named {
            text += &ty.map_or(String::new(), |ty| format!(", {flag} {ty}"));
        }
        if self.pure {
            text += ", --pure";
        }
        // Which one, its numbers say.
        if self.imatrix.is_some() {
            text += ", --imatrix";
        }
        text
    }
}

/// The mix that a flag or argument names.
pub fn mix(name: &str) -> Result<&'static Mix, String> {
    Mix::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = MIXES.iter().map(|mix| mix.name).collect();
        format!("known types are {}", known.join(", "))
    })
}

/// A type that weights can be written in.
pub fn weight_type(name: &str) -> Result<TensorType, String> {
    let is_writable = |ty: TensorType| ty.is_weight_type() && ty != TensorType::F8_E4M3;
    match name.parse::<TensorType>() {
        Ok(ty) if is_writable(ty) => Ok(ty),
        _ => {
            let all = TensorType::ALL.iter().filter(|ty| is_writable(**ty));
            let known: Vec<&str> = all.map(|ty| ty.name()).collect();
            Err(format!("known types are {}", known.join(", ")))
        }
    }
}

fn tensor_type(text: &str) -> Result<(Regex, TensorType), String> {
    let (pattern, ty) = text
        .rsplit_once('=')
        .filter(|(pattern, _)| !pattern.is_empty())
        .ok_or("expected REGEX=TYPE, such as ffn_down=q6_K")?;
    Ok((name_pattern(pattern).map_err(|error| error.to_string())?, weight_type(ty)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_types_are_parsed() {
        let (name, ty) = tensor_type(r"blk\.[0-3]\.ATTN_q=Q8_0").unwrap();
        assert!(name.is_match("blk.2.attn_q.weight") && !name.is_match("blk.4.attn_q.weight"));
        assert_eq!(ty, TensorType::Q8_0);
        for bad in
            ["q8_0", "=q8_0", "a=", "a=q9", "a=i32", "a=q8_K", "(=q8_0", "a{1000}{1000}=q8_0"]
        {
            assert!(tensor_type(bad).is_err(), "{bad}");
        }
        assert_eq!(mix("iq2_m").map(|mix| mix.name), Ok("IQ2_M"));
        assert!(mix("q9").unwrap_err().contains("Q4_K_M"));
    }
}
