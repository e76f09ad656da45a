//! Templates compiled with a guard in front of everything that can grow.
//!
//! minijinja's instructions for `+`, `*`, `~`, comparisons, slices, lists and plain text look at no
//! limit. The compiled program is therefore rewritten: such an instruction gets a filter call in
//! front of it that sees its operands, pays for them and hands them on. Plain text becomes a
//! constant that is printed, so that the one place that prints counts all of it. Instructions
//! keep their lines, jumps are moved along.

use std::collections::BTreeMap;

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, ast, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Error, ErrorKind};

/// What a guard guards, by the name under which it is called; no template can spell these.
pub(super) mod guards {
    pub(crate) const LOOK: &str = "\u{1}look";
    pub(crate) const LOOK_BOTH: &str = "\u{1}look_both";
    pub(crate) const ADD: &str = "\u{1}add";
    pub(crate) const MULTIPLY: &str = "\u{1}multiply";
    pub(crate) const CONCAT: &str = "\u{1}concat";
    pub(crate) const SLICE: &str = "\u{1}slice";
    pub(crate) const ASSIGN: &str = "\u{1}assign";
}

/// No cached lookup of a filter.
const NO_LOCAL: u8 = !0;
/// Longest constant that may be multiplied at compile time.
const MAX_FOLDED: usize = 256;

/// Compiles a template. The source is what error lines refer to.
pub(super) fn compile<'s>(
    source: &'s str,
    syntax: SyntaxConfig,
) -> Result<Instructions<'s>, Error> {
    let tree = parse(source, "template", syntax)?;
    check_stmt(&tree)?;
    let mut generator = CodeGenerator::new("template", source);
    generator.compile_stmt(&tree);
    let (program, blocks) = generator.finish();
    if !blocks.is_empty() {
        return Err(unavailable("block"));
    }
    guarded(&program, source)
}

/// No named blocks: there are no other templates to inherit from.
pub(super) const NO_BLOCKS: BTreeMap<&'static str, Instructions<'static>> = BTreeMap::new();

fn unavailable(what: &str) -> Error {
    let problem = format!("{{% {what} %}} is not available in chat templates");
    Error::new(ErrorKind::SyntaxError, problem)
}

fn guarded<'s>(program: &Instructions<'s>, source: &'s str) -> Result<Instructions<'s>, Error> {
    let old: Vec<&Instruction<'s>> = (0..).map_while(|i| program.get(i)).collect();
    let mut starts = Vec::with_capacity(old.len() + 1);
    let mut at = 0;
    for instruction in &old {
        starts.push(at);
        at += expand(instruction)?.len() as u32;
    }
    starts.push(at);
    let moved = |target: u32| starts.get(target as usize).copied().unwrap_or(at);
    let mut guarded = Instructions::new("template", source);
    for (i, instruction) in old.iter().enumerate() {
        let line = program.get_line(i as u32).unwrap_or(0).min(usize::from(u16::MAX)) as u16;
        for mut new in expand(instruction)? {
            match &mut new {
                Instruction::Jump(target)
                | Instruction::JumpIfFalse(target)
                | Instruction::JumpIfFalseOrPop(target)
                | Instruction::JumpIfTrueOrPop(target)
                | Instruction::Iterate(target)
                | Instruction::BuildMacro(_, target, _) => *target = moved(*target),
                _ => {}
            }
            guarded.add_with_line(new, line);
        }
    }
    Ok(guarded)
}

fn call(guard: &'static str, n_args: u16) -> Instruction<'static> {
    Instruction::ApplyFilter(guard, Some(n_args), NO_LOCAL)
}

/// An instruction with its guards. Guards of one operand hand it on; those of several return a list
/// that is unpacked again.
fn expand<'s>(instruction: &Instruction<'s>) -> Result<Vec<Instruction<'s>>, Error> {
    let own = || instruction.clone();
    let both = |guard| vec![call(guard, 2), Instruction::UnpackList(2), own()];
    Ok(match instruction {
        Instruction::EmitRaw(text) => {
            vec![Instruction::LoadConst(Value::from(*text)), Instruction::Emit]
        }
        Instruction::Add => both(guards::ADD),
        Instruction::Mul => both(guards::MULTIPLY),
        Instruction::StringConcat => both(guards::CONCAT),
        Instruction::Eq
        | Instruction::Ne
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::In
        | Instruction::CompareAndPreserve(_) => both(guards::LOOK_BOTH),
        Instruction::SetAttr(_) => both(guards::ASSIGN),
        Instruction::Slice => vec![call(guards::SLICE, 4), Instruction::UnpackList(4), own()],
        // The key is on top; dictionaries hash it.
        Instruction::GetItem => vec![call(guards::LOOK, 1), own()],
        // Named arguments are looked at by what they are arguments of.
        Instruction::BuildMap(_) | Instruction::BuildList(_) | Instruction::BuildTuple(_) => {
            vec![own(), call(guards::LOOK, 1)]
        }
        Instruction::CallBlock(_) | Instruction::FastSuper => return Err(unavailable("block")),
        Instruction::LoadBlocks => return Err(unavailable("extends")),
        Instruction::Include(_) => return Err(unavailable("include")),
        Instruction::ExportLocals => return Err(unavailable("import")),
        _ => vec![own()],
    })
}

/// Refuses products of constants that the compiler would compute, however large.
fn check_stmt(stmt: &ast::Stmt<'_>) -> Result<(), Error> {
    use ast::Stmt;
    let all = |body: &[Stmt<'_>]| body.iter().try_for_each(check_stmt);
    match stmt {
        Stmt::Template(node) => all(&node.children),
        Stmt::EmitExpr(node) => check_expr(&node.expr),
        Stmt::ForLoop(node) => {
            check_expr(&node.iter)?;
            node.filter_expr.iter().try_for_each(check_expr)?;
            all(&node.body)?;
            all(&node.else_body)
        }
        Stmt::IfCond(node) => {
            check_expr(&node.expr)?;
            all(&node.true_body)?;
            all(&node.false_body)
        }
        Stmt::WithBlock(node) => {
            node.assignments.iter().try_for_each(|(_, value)| check_expr(value))?;
            all(&node.body)
        }
        Stmt::Set(node) => check_expr(&node.expr),
        Stmt::SetBlock(node) => {
            node.filter.iter().try_for_each(check_expr)?;
            all(&node.body)
        }
        Stmt::AutoEscape(node) => all(&node.body),
        Stmt::FilterBlock(node) => {
            check_expr(&node.filter)?;
            all(&node.body)
        }
        Stmt::Macro(node) => {
            node.defaults.iter().try_for_each(check_expr)?;
            all(&node.body)
        }
        Stmt::CallBlock(node) => {
            check_call(&node.call)?;
            all(&node.macro_decl.body)
        }
        Stmt::Do(node) => check_call(&node.call),
        Stmt::Block(_) => Err(unavailable("block")),
        Stmt::Import(_) | Stmt::FromImport(_) => Err(unavailable("import")),
        Stmt::Extends(_) => Err(unavailable("extends")),
        Stmt::Include(_) => Err(unavailable("include")),
        Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => Ok(()),
    }
}

fn check_call(call: &ast::Call<'_>) -> Result<(), Error> {
    check_expr(&call.expr)?;
    check_args(&call.args)
}

fn check_args(args: &[ast::CallArg<'_>]) -> Result<(), Error> {
    args.iter().try_for_each(|arg| match arg {
        ast::CallArg::Pos(value)
        | ast::CallArg::Kwarg(_, value)
        | ast::CallArg::PosSplat(value)
        | ast::CallArg::KwargSplat(value) => check_expr(value),
    })
}

fn check_expr(expr: &ast::Expr<'_>) -> Result<(), Error> {
    use ast::Expr;
    match expr {
        Expr::Var(_) | Expr::Const(_) => Ok(()),
        Expr::Slice(node) => {
            check_expr(&node.expr)?;
            [&node.start, &node.stop, &node.step].into_iter().flatten().try_for_each(check_expr)
        }
        Expr::UnaryOp(node) => check_expr(&node.expr),
        Expr::BinOp(node) => {
            check_expr(&node.left)?;
            check_expr(&node.right)?;
            match node.op {
                ast::BinOpKind::Mul => check_product(&node.left, &node.right),
                _ => Ok(()),
            }
        }
        Expr::Compare(node) => {
            check_expr(&node.expr)?;
            node.ops.iter().try_for_each(|op| check_expr(&op.expr))
        }
        Expr::IfExpr(node) => {
            check_expr(&node.test_expr)?;
            check_expr(&node.true_expr)?;
            node.false_expr.iter().try_for_each(check_expr)
        }
        Expr::Filter(node) => {
            node.expr.iter().try_for_each(check_expr)?;
            check_args(&node.args)
        }
        Expr::Test(node) => {
            check_expr(&node.expr)?;
            check_args(&node.args)
        }
        Expr::GetAttr(node) => check_expr(&node.expr),
        Expr::GetItem(node) => {
            check_expr(&node.expr)?;
            check_expr(&node.subscript_expr)
        }
        Expr::Call(node) => check_call(node),
        Expr::List(node) => node.items.iter().try_for_each(check_expr),
        Expr::Tuple(node) => node.items.iter().try_for_each(check_expr),
        Expr::Map(node) => {
            node.keys.iter().try_for_each(check_expr)?;
            node.values.iter().try_for_each(check_expr)
        }
    }
}

/// Inner products were checked before, so both sides are small here.
fn check_product(left: &ast::Expr<'_>, right: &ast::Expr<'_>) -> Result<(), Error> {
    let (Some(left), Some(right)) = (left.as_const(), right.as_const()) else { return Ok(()) };
    let times = |a: &Value, b: &Value| Some(a.len()?.saturating_mul(b.as_usize()?));
    match times(&left, &right).or_else(|| times(&right, &left)) {
        Some(len) if len > MAX_FOLDED => {
            Err(Error::new(ErrorKind::SyntaxError, "a constant is multiplied beyond its limit"))
        }
        _ => Ok(()),
    }
}
