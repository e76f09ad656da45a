//! Clients of a chat server, all at once: how fast it answers.
//!
//! `load ADDRESS CLIENTS SECONDS MAX_TOKENS PROMPT_WORDS SEED`: each client asks one question after the other
//! over a connection of its own and reads the stream. Prints one line of JSON. It speaks plain HTTP/1.1 and
//! works with any server of OpenAI's protocol, so that servers can be compared.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// What one question took.
#[derive(Debug, Default)]
struct Answer {
    first: Option<Duration>,
    gaps: Vec<Duration>,
    n_events: usize,
    is_complete: bool,
}

#[derive(Debug, Clone)]
struct Plan {
    address: String,
    max_tokens: usize,
    n_words: usize,
    end: Instant,
}

const WORDS: [&str; 16] = [
    "river", "stone", "seven", "blue", "morning", "engine", "letter", "window", "garden", "north",
    "paper", "silver", "yellow", "market", "winter", "signal",
];

fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn body(plan: &Plan, random: &mut u64) -> String {
    let words: Vec<&str> =
        (0..plan.n_words).map(|_| WORDS[draw(random) as usize % WORDS.len()]).collect();
    serde_json::json!({
        "model": "mistral-medium-3.5",
        "messages": [{"role": "user", "content": words.join(" ")}],
        "max_tokens": plan.max_tokens,
        "temperature": 0,
        "stream": true,
        // The model never ends on its own, so that all answers are equally long.
        "logit_bias": {"2": -100},
    })
    .to_string()
}

async fn ask(plan: &Plan, random: &mut u64) -> std::io::Result<Answer> {
    let body = body(plan, random);
    let start = Instant::now();
    let mut stream = TcpStream::connect(&plan.address).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        plan.address,
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut reader = BufReader::new(stream);
    let mut answer = Answer::default();
    let mut last = start;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).await? == 0 {
            return Ok(answer);
        }
        let Some(data) = line.trim_end().strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            answer.is_complete = true;
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).await?;
            return Ok(answer);
        }
        if data.contains("\"content\":\"") && !data.contains("\"content\":\"\"") {
            let now = Instant::now();
            match answer.first {
                None => answer.first = Some(now - start),
                Some(_) => answer.gaps.push(now - last),
            }
            answer.n_events += 1;
            last = now;
        }
    }
}

async fn client(plan: Plan, seed: u64) -> (Vec<Answer>, usize) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let (mut answers, mut n_failed) = (Vec::new(), 0);
    while Instant::now() < plan.end {
        match ask(&plan, &mut random).await {
            Ok(answer) if answer.is_complete => answers.push(answer),
            _ => {
                n_failed += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    (answers, n_failed)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

fn milliseconds(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut all: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
    all.sort_by(f64::total_cmp);
    all
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| -> usize {
        args.get(i).and_then(|arg| arg.parse().ok()).expect("see the first lines of this file")
    };
    let start = Instant::now();
    let plan = Plan {
        address: args[0].clone(),
        end: start + Duration::from_secs(number(2) as u64),
        max_tokens: number(3),
        n_words: number(4),
    };
    let clients: Vec<_> = (0..number(1))
        .map(|i| tokio::spawn(client(plan.clone(), (number(5) * 1000 + i) as u64)))
        .collect();
    let (mut answers, mut n_failed) = (Vec::new(), 0);
    for client in clients {
        let (mine, failed) = client.await.expect("a client does not panic");
        answers.extend(mine);
        n_failed += failed;
    }
    let seconds = start.elapsed().as_secs_f64();
    let first = milliseconds(answers.iter().filter_map(|answer| answer.first));
    let gaps = milliseconds(answers.iter().flat_map(|answer| answer.gaps.iter().copied()));
    let n_events: usize = answers.iter().map(|answer| answer.n_events).sum();
    let report = serde_json::json!({
        "requests": answers.len(),
        "failed": n_failed,
        "requests_per_s": answers.len() as f64 / seconds,
        "events_per_s": n_events as f64 / seconds,
        "events_per_answer": n_events as f64 / answers.len().max(1) as f64,
        "ttft_p50_ms": percentile(&first, 0.5),
        "ttft_p99_ms": percentile(&first, 0.99),
        "gap_p50_ms": percentile(&gaps, 0.5),
        "gap_p99_ms": percentile(&gaps, 0.99),
    });
    let mut stdout = std::io::stdout();
    std::io::Write::write_all(&mut stdout, format!("{report}\n").as_bytes()).expect("stdout");
}
