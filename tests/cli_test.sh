#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What gpt2-generate promises on the command line.
# usage: tests/cli_test.sh GPT2-GENERATE MODEL
set -uo pipefail
set -m # so that programs in the background do not ignore SIGINT

[ $# -eq 2 ] || { echo "usage: $0 GPT2-GENERATE MODEL" >&2; exit 2; }
program=$(realpath "$1")
model=$(realpath "$2")
tests=$(realpath "$(dirname "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export XDG_STATE_HOME="$work/state"

prompt="There was once a poor woodcutter who"
failed=0
checks=0

fail() {
    echo "FAILED: $*" >&2
    failed=$((failed + 1))
}

# run ARGUMENT...: the program with the model; leaves $out, $err and $status
run() {
    "$program" --model "$model" "$@" >out.txt 2>err.txt </dev/null
    status=$?
    out=$(cat out.txt)
    err=$(cat err.txt)
}

# equal WHAT FOUND EXPECTED
equal() {
    checks=$((checks + 1))
    [ "$2" = "$3" ] || fail "$1: expected '$3', found '$2'"
}

# contains WHAT TEXT PART
contains() {
    checks=$((checks + 1))
    case $2 in
    *"$3"*) ;;
    *) fail "$1: expected '$3' in '$2'" ;;
    esac
}

# refused STATUS MESSAGE ARGUMENT...: it prints nothing but a message that contains MESSAGE
refused() {
    local expected=$1 message=$2
    shift 2
    run "$@"
    equal "status of $*" "$status" "$expected"
    equal "output of $*" "$out" ""
    contains "message of $*" "$err" "gpt2-generate: error: "
    contains "message of $*" "$err" "$message"
}

# --- help and version need neither model nor prompt
"$program" --help >out.txt 2>err.txt </dev/null
equal "status of --help" $? 0
contains "--help" "$(cat out.txt)" "--repetition-penalty"
equal "lines of --help that are too long" "$(awk 'length > 112' out.txt)" ""
"$program" --version >out.txt
contains "--version" "$(cat out.txt)" "gpt2-generate "

# --- command lines that make no sense
refused 2 "unknown option --foo" --foo "$prompt"
refused 2 "unknown option --top" --top 4 "$prompt"
refused 2 "quotes" two words
refused 2 "max_new_tokens is -1" --max-new-tokens -1 "$prompt"
refused 2 "top_k is -40" --top_k=-40 "$prompt"
refused 2 "found 4.5" --max-new-tokens 4.5 "$prompt"
refused 2 "found 99999999999999999999" --top-k 99999999999999999999 "$prompt"
refused 2 "found -5" --seed -5 "$prompt"
refused 2 "found 18446744073709551616" --seed 18446744073709551616 "$prompt"
refused 2 "temperature is -1" --temperature -1 "$prompt"
refused 2 "temperature is nan" --temperature nan "$prompt"
refused 2 "found warm" --temperature warm "$prompt"
refused 2 "top_p is 1.5" --top-p 1.5 "$prompt"
refused 2 "min_p is -0.5" --min-p -0.5 "$prompt"
refused 2 "repetition_penalty is 0" --repetition-penalty 0 "$prompt"
refused 2 "--greedy excludes --top-k" --greedy --top-k 40 "$prompt"
refused 2 "--greedy excludes --seed" --greedy --seed 1 "$prompt"
refused 2 "same text" --greedy --n 2 "$prompt"
refused 2 "same text" --temperature 0 --n 2 "$prompt"
refused 2 "--n is 0" --n 0 "$prompt"
refused 2 "--n is -2" --n -2 "$prompt"
refused 2 "num_return_sequences is 0" --num-return-sequences 0 "$prompt"
refused 2 "num_return_sequences is 2, expected 1 while num_beams is 1 and do_sample is false" --greedy --num-return-sequences 2 "$prompt"
refused 2 "excludes" --n 2 --num-return-sequences 2 "$prompt"
refused 2 "--screen-head is for one text at a time" --screen-head --num-return-sequences 2 "$prompt"
refused 2 "--screen-head is for one text at a time" --screen-head --num-beams 2 "$prompt"
refused 2 "excludes" --n 2 --num-beams 2 "$prompt"
refused 2 "num_return_sequences is 3, expected at most num_beams, 2" --num-beams 2 --num-return-sequences 3 "$prompt"
refused 2 "length_penalty is set but has no effect while num_beams is 1" --length-penalty 2 "$prompt"
refused 2 "seed is set but has no effect while do_sample is false" --num-beams 2 --seed 1 "$prompt"
refused 2 "expected false, true or never, found maybe" --num-beams 2 --early-stopping maybe "$prompt"
refused 2 "penalty_alpha is 0.6 but top_k is not set" --penalty-alpha 0.6 "$prompt"
refused 2 "penalty_alpha and do_sample are both set" --penalty-alpha 0.6 --top-k 4 --do-sample "$prompt"
refused 2 "temperature is set but has no effect" --penalty-alpha 0.6 --top-k 4 --temperature 0.5 "$prompt"
refused 2 "penalty_alpha and num_beams are both set" --penalty-alpha 0.6 --top-k 4 --num-beams 2 "$prompt"
refused 2 "no effect with --penalty-alpha" --penalty-alpha 0.6 --top-k 4 --screen-head "$prompt"
refused 2 "diversity_penalty is not set" --num-beams 4 --num-beam-groups 2 "$prompt"
refused 2 "--threads is 0" --threads 0 "$prompt"
refused 2 "--threads is -1" --threads -1 "$prompt"
refused 2 "--threads excludes --processors" --processors 0 --threads 1 "$prompt"
refused 2 "expected a whole number, 0 or more, found x" --processors 0,x "$prompt"
refused 2 "found " --processors 0, "$prompt"
refused 2 "processors: expected those that this thread may run on" --processors 99999 "$prompt"
refused 2 "found q4" --weights q4 "$prompt"
refused 2 "found bf16" --kv-dtype bf16 "$prompt"
refused 2 "expected error, slide or truncate_left, found 1" --overflow 1 "$prompt"
refused 2 "max_time is -1, expected a number of seconds" --max-time -1 "$prompt"
refused 2 "max_time is nan" --max-time nan "$prompt"
refused 2 "stop_strings[1] is empty" --stop a --stop "" "$prompt"
refused 2 "eos_token_id is 99999999" --eos-token-id 99999999 "$prompt"
refused 2 "ignore_eos" --eos-token-id 1 --ignore-eos "$prompt"
refused 2 "excludes" --interactive "$prompt"
refused 2 "excludes" --prompt-file /dev/null "$prompt"
refused 2 "excludes" --json --echo "$prompt"
refused 2 "--screen-head" --screen-head --logprobs "$prompt"
refused 2 "--screen-head" --screen-head --top-p 0.9 "$prompt"
refused 2 "screen_head: expected an output head in float32" --screen-head --weights int8 "$prompt"
refused 2 "missing" --seed
refused 2 "" --temperature=

refused 2 "expected \"openai\", \"huggingface\" or \"llama.cpp\"" --preset gpt "$prompt"
refused 2 "excludes" --preset openai --greedy "$prompt"
refused 2 "excludes" --greedy --typical-p 0.5 "$prompt"
refused 2 "typical_p is 2" --typical-p 2 "$prompt"
refused 2 "mirostat and top_k are both set" --mirostat --top-k 3 "$prompt"
refused 2 "mirostat.tau is 0" --mirostat-tau 0 "$prompt"
refused 2 "xtc.threshold is 0.7" --xtc-threshold 0.7 "$prompt"
refused 2 "dry.base is 0.5" --dry-base 0.5 "$prompt"
refused 2 "sequence_breakers[0] is empty" --dry-sequence-breaker "" "$prompt"
refused 2 "expected keep or cut, found maybe" --top-k-ties maybe "$prompt"
refused 2 "expected reach or within, found out" --top-p-rule out "$prompt"
refused 2 "processor_order[1] is \"topp\"" --top-k 3 --processor-order top_k,topp "$prompt"
refused 2 "top_p is set but processor_order" --top-k 3 --top-p 0.5 --processor-order top_k "$prompt"
refused 2 "min_new_tokens is 5, expected at most max_new_tokens, 4" --max-new-tokens 4 --min-new-tokens 5 "$prompt"
refused 2 "--suppress-tokens: expected one token" --suppress-tokens "two words" "$prompt"
refused 2 "--bad-words: expected a text or ids" --bad-words "" "$prompt"
refused 2 "--logit-bias: expected =NUMBER at the end" --logit-bias the "$prompt"
refused 2 "has been given a bias before" --logit-bias the=1 --logit-bias the=2 "$prompt"
refused 2 "bad_words_ids[0]: found token 99999999" --bad-words 99999999 "$prompt"
refused 2 "--exponential-decay-length-penalty: expected" --exponential-decay-length-penalty 5 "$prompt"
refused 2 "forced_bos_token_id is set but has no effect after" --forced-bos-token-id 5 "$prompt"
refused 2 "requires --guidance-scale" --negative-prompt x "$prompt"
refused 2 "regex, line 1, column 4: expected )" --regex "a(b" "$prompt"
refused 2 "left recursion" --grammar 'root ::= root "a" | "b"' "$prompt"
refused 2 "--regex excludes --grammar" --regex a --grammar 'root ::= "a"' "$prompt"
refused 2 "constraint and ignore_eos are both set" --regex a --ignore-eos "$prompt"
refused 1 "none.gbnf" --grammar-file none.gbnf "$prompt"
refused 2 "--screen-head" --screen-head --greedy --no-repeat-ngram-size 2 "$prompt"

# --- failures
refused 1 "no-such-model" --model no-such-model "$prompt"
refused 1 "no-such-file" --prompt-file no-such-file
refused 1 "directory" --prompt-file .
refused 1 "max_new_tokens (100000)" --max-new-tokens 100000 "$prompt"

# --- the model is checked on request
run --verify
equal "status of --verify" "$status" 0
equal "standard error of --verify" "$err" ""
contains "output of --verify" "$out" "all weights are finite, the checksum is right, logits are within "
refused 2 "excludes" --verify "$prompt"
refused 2 "the file's own formats" --verify --weights float32
head -c 10000000 "$model" >cut.safetensors
refused 1 "bytes of data in the file" --model cut.safetensors --verify
{ head -c 5000000 "$model"; printf x; tail -c +5000002 "$model"; } >damaged.safetensors
refused 1 "the file is damaged" --model damaged.safetensors --verify

# --- the same text every time, by any way in
run --seed 42 --max-new-tokens 24 "$prompt"
equal "status" "$status" 0
equal "standard error" "$err" ""
text=$out
checks=$((checks + 1))
[ ${#text} -gt 40 ] || fail "expected a text, found '$text'"
run --seed 42 --max_new_tokens=24 --temperature 0.8 --top_k 40 --threads 1 "$prompt"
equal "the defaults spelled out, one thread" "$out" "$text"
if first=$(taskset -cp $$ 2>/dev/null); then # "pid 1's current affinity list: 0-3,8"
    first=${first##*: }
    run --seed 42 --max-new-tokens 24 --processors "${first%%[!0-9]*}" --stats "$prompt"
    equal "on one processor" "$out" "$text"
    contains "--stats with --processors" "$err" ", 1 thread"
fi
run --seed 1 --do-sample --seed 42 --max-new-tokens 24 "$prompt"
equal "the last of two seeds counts" "$out" "$text"
run --seed 42 --max-new-tokens 24 --screen-head --stats "$prompt"
equal "--screen-head" "$out" "$text"
contains "--stats with --screen-head" "$err" "screening  23 tokens, for each "
# --- speculation: the same text
for options in "--prompt-lookup-num-tokens 4" "--prompt_lookup_num_tokens 9 --max_matching_ngram_size 1" \
    "--assistant-model $model" "--assistant-model $model --assistant-weights int4 --num-assistant-tokens 3"; do
    # shellcheck disable=SC2086
    run --seed 42 --max-new-tokens 24 --stats $options "$prompt"
    equal "text with $options" "$out" "$text"
    contains "--stats with $options" "$err" "accepted   "
done
run --seed 42 --max-new-tokens 24 --stats --json --assistant-model "$model" --num-assistant-tokens 22 "$prompt"
contains "--json --stats with a model as its own assistant" "$out" \
    '"speculation":{"proposed":22,"accepted":22,"passes":1}'
refused 2 "--num-assistant-tokens is 0" --assistant-model "$model" --num-assistant-tokens 0 "$prompt"
refused 2 "prompt_lookup_num_tokens is 0" --prompt-lookup-num-tokens 0 "$prompt"
refused 2 "--assistant-model" --assistant-model "$model" --prompt-lookup-num-tokens 2 "$prompt"
refused 2 "--prompt-lookup-num-tokens" --max-matching-ngram-size 2 "$prompt"
refused 2 "--assistant-model" --num-assistant-tokens 2 "$prompt"
refused 1 "nowhere" --assistant-model nowhere "$prompt"

printf '%s\n' "$prompt" >prompt.txt
run --seed 42 --max-new-tokens 24 --prompt-file prompt.txt
equal "prompt from a file" "$out" "$text"
equal "prompt from standard input" \
    "$("$program" --model "$model" --seed 42 --max-new-tokens 24 <prompt.txt)" "$text"
equal "prompt from standard input by name" \
    "$("$program" --model "$model" --seed 42 --max-new-tokens 24 --prompt-file - <prompt.txt)" "$text"
run --seed 42 --max-new-tokens 24 --echo "$prompt"
equal "--echo" "$out" "$prompt$text"
run --seed 43 --max-new-tokens 24 "$prompt"
checks=$((checks + 1))
[ "$out" != "$text" ] || fail "another seed gave the same text"

run --greedy --max-new-tokens 8 "$prompt"
greedy=$out
run --temperature 0 --max-new-tokens 8 "$prompt"
equal "temperature 0 is greedy" "$out" "$greedy"
run --top-k 1 --max-new-tokens 8 "$prompt"
equal "top_k 1 is greedy" "$out" "$greedy"
run --top-p 0 --max-new-tokens 8 "$prompt"
equal "top_p 0 is greedy" "$out" "$greedy"
run --seed 5 --top-p 1 --max-new-tokens 8 "$prompt"
whole=$out
run --seed 5 --top-k 1000000 --max-new-tokens 8 "$prompt"
equal "top_k above the vocabulary is all of it" "$out" "$whole"

# --- processors
run --greedy --max-new-tokens 8 --json "$prompt"
first=$(sed 's/.*"tokens":\[\([0-9]*\).*/\1/' out.txt)
run --greedy --max-new-tokens 8 --json --suppress-tokens "$first" "$prompt"
checks=$((checks + 1))
[ "$(sed 's/.*"tokens":\[\([0-9]*\).*/\1/' out.txt)" != "$first" ] || fail "a suppressed token came up"
run --greedy --max-new-tokens 8 --logit-bias " the=100" "$prompt"
equal "a bias that decides" "$out" " the the the the the the the the"
run --greedy --max-new-tokens 4 --logit-bias " the=100" --bad-words "the the" "$prompt"
checks=$((checks + 1))
case $out in *"the the"*) fail "bad words came up: '$out'" ;; esac
run --greedy --regex "(an? )?[A-Z]{3}-\\d\\d" "$prompt"
checks=$((checks + 1))
printf %s "$out" | grep -Eqx '(an? )?[A-Z]{3}-[0-9]{2}' || fail "a regular expression: found '$out'"
run --seed 1 --grammar 'root ::= "<" [a-z]{3} ">"' "$prompt"
checks=$((checks + 1))
printf %s "$out" | grep -Eqx '<[a-z]{3}>' || fail "a grammar: found '$out'"
echo 'root ::= "yes" | "no"' >answer.gbnf
run --seed 1 --num-return-sequences 2 --json --grammar-file answer.gbnf "$prompt"
contains "a grammar in a file" "$out" '"finish_reason":"eos"'
run --max-new-tokens 3 --ignore-eos --json --forced-bos-token-id The ""
contains "a forced first token" "$out" '"text":"The'
run --preset openai --seed 7 --max-new-tokens 24 "$prompt"
original=$out
run --seed 7 --max-new-tokens 24 --temperature 1 --ignore-eos "$prompt"
equal "--preset openai" "$out" "$original"
run --preset huggingface --seed 7 --max-new-tokens 24 "$prompt"
fifty=$out
run --seed 7 --max-new-tokens 24 --top-k 50 "$prompt"
equal "--preset huggingface" "$out" "$fifty"
run --preset llama.cpp --seed 7 --max-new-tokens 24 "$prompt"
chain=$out
run --seed 7 --max-new-tokens 24 --temperature 0.8 --top-k 40 --top-k-ties cut --top-p 0.95 --min-p 0.05 \
    --processor-order top_k,top_p,min_p,temperature "$prompt"
equal "--preset llama.cpp" "$out" "$chain"
run --preset llama.cpp --temperature 0.01 --seed 7 --max-new-tokens 8 "$prompt"
equal "a preset, changed" "$out" "$("$program" --model "$model" --greedy --max-new-tokens 8 "$prompt")"
for options in "--guidance-scale 1.5 --negative-prompt night" "--mirostat" "--xtc-probability 0.3" "--dry-multiplier 1" "--typical-p 0.9" "--eta-cutoff 0.001" \
    "--min-new-tokens 5" "--exponential-decay-length-penalty 2,1.1" "--preset llama.cpp --screen-head"; do
    # shellcheck disable=SC2086
    run --seed 3 --max-new-tokens 6 $options "$prompt"
    equal "status of $options" "$status" 0
    equal "standard error of $options" "$err" ""
done

# --- several texts
run --seed 42 --max-new-tokens 24 --n 3 "$prompt"
contains "--n 3" "$out" "=== 1 of 3 ===
$text
=== 2 of 3 ==="
run --seed 42 --max-new-tokens 24 --n 3 --json "$prompt"
equal "lines of --json" "$(wc -l <out.txt)" 3
second=$(sed -n 2p out.txt)
run --seed 42 --max-new-tokens 24 --sample 1 --json "$prompt"
equal "--sample 1 is the second of --n" "$out" "$second"
run --seed 42 --max-new-tokens 24 --num-return-sequences 3 --json "$prompt"
equal "--num-return-sequences, the second text" "$(sed -n 2p out.txt)" "$second"
equal "lines of --json, all at once" "$(wc -l <out.txt)" 3
run --seed 42 --max-new-tokens 24 --n 3 --echo "$prompt"
three=$out
run --seed 42 --max-new-tokens 24 --num-return-sequences 3 --echo --stats "$prompt"
equal "--num-return-sequences" "$out" "$three"
contains "--stats of the last of all" "$err" "seed 42, sample 2"
run --penalty-alpha 0.6 --top-k 4 --max-new-tokens 12 "$prompt"
contrastive=$out
run --penalty-alpha 0.6 --top-k 4 --max-new-tokens 12 --threads 1 "$prompt"
equal "--penalty-alpha, another number of threads" "$out" "$contrastive"
run --greedy --max-new-tokens 12 "$prompt"
checks=$((checks + 1))
[ "$out" != "$contrastive" ] || fail "--penalty-alpha: expected another text than the greedy one"
run --penalty-alpha 0 --top-k 4 --max-new-tokens 12 --seed 1 "$prompt" # off: drawn

run --num-beams 4 --max-new-tokens 12 --num-return-sequences 2 --stats "$prompt"
beams=$out
contains "--num-beams" "$out" "=== 2 of 2 ==="
contains "--stats with --num-beams" "$err" "finished   length, score -"
run --num-beams 4 --max-new-tokens 12 --num-return-sequences 2 --greedy --early-stopping false --length-penalty 1 "$prompt"
equal "--num-beams, the defaults spelled out" "$out" "$beams"
run --num-beams 4 --max-new-tokens 12 --json "$prompt"
contains "--json with --num-beams" "$out" '"score":-'
run --num-beams 4 --max-new-tokens 12 "$prompt"
contains "the best text" "$beams" "$out"
run --num-beams 3 --max-new-tokens 12 --top-k 20 --seed 5 --json "$prompt"
contains "drawn beams" "$out" '"seed":5,"sample":0,"score":-'
run --num-beams 4 --num-beam-groups 2 --diversity-penalty 0.5 --early-stopping never --max-new-tokens 6 "$prompt"
equal "status with groups of beams" "$status" 0
contains "json" "$second" '"finish_reason":"length","prompt_tokens":'
contains "json" "$second" '"seed":42,"sample":1}'

# --- sessions on disk
refused 2 "--n is 2, expected 1 with --save-session" --n 2 --save-session s "$prompt"
refused 2 "excludes" --interactive --save-session s
refused 2 "excludes" --verify --load-session s
refused 1 "nothing.session" --load-session nothing.session "$prompt"
refused 1 "prompt.txt" --load-session prompt.txt "$prompt"
run --greedy --max-new-tokens 8 "$prompt"
whole=$out
run --greedy --max-new-tokens 3 --save-session begin.session "$prompt"
begin=$out
equal "status of --save-session" "$status:$err" "0:"
run --greedy --max-new-tokens 5 --load-session begin.session --save-session end.session ""
equal "--load-session goes on" "$begin$out" "$whole"
run --greedy --max-new-tokens 5 --load-session begin.session --stats " The king"
equal "status of --load-session with a prompt" "$status" 0
after=$out
run --greedy --max-new-tokens 5 "$prompt$begin The king"
equal "--load-session with a prompt" "$after" "$out"
run --greedy --max-new-tokens 1 --json --load-session end.session ""
contains "tokens of a session that was saved twice" "$out" '"prompt_tokens":'
refused 1 "found one of another" --weights int8 --load-session begin.session ""
head -c 3000 begin.session >cut.session
refused 1 "cut.session" --load-session cut.session ""
refused 2 "kv_dtype is float32, expected float16" --kv-dtype float32 --load-session begin.session ""

# --- how a text ends
tokens_of() { sed 's/.*"tokens":\[\([^]]*\)\].*/\1/' out.txt; }
run --greedy --max-new-tokens 8 --json "$prompt"
third=$(tokens_of | cut -d, -f3)
first_three=$(tokens_of | cut -d, -f1-3)
run --greedy --max-new-tokens 8 --json --eos-token-id "$third" "$prompt"
contains "another end of text" "$out" '"finish_reason":"eos"'
equal "tokens up to it" "$(tokens_of)" "$first_three"
stop=${text:12:9}
run --seed 42 --max-new-tokens 24 --stop "$stop" "$prompt"
equal "--stop '$stop'" "$out" "${text%%"$stop"*}"
run --seed 42 --max-new-tokens 24 --json --stop "not in it" --stop "$stop" "$prompt"
contains "--stop in json" "$out" '"finish_reason":"stop_string","stop_string":"'
run --max-new-tokens 0 "$prompt"
equal "no new tokens" "$status:$out" "0:"
run --max-time 0 --json "$prompt"
contains "no time" "$out" '"text":"","finish_reason":"max_time","prompt_tokens":'
run --seed 42 --max-new-tokens 24 --max-time 1e6 "$prompt"
equal "time enough" "$out" "$text"
printf 'word %.0s' {1..600} >long.txt
refused 1 "set overflow to slide or truncate_left" --prompt-file long.txt
run --overflow truncate_left --max-new-tokens 6 --json --prompt-file long.txt
equal "status of --overflow truncate_left" "$status" 0
contains "--overflow truncate_left" "$out" '"finish_reason":"'
run --seed 1 --overflow slide --max-new-tokens 600 --json "$prompt"
equal "status of --overflow slide" "$status" 0
equal "tokens of --overflow slide" "$(tokens_of | tr ',' '\n' | grep -c .)" 600

# --- odd prompts
for odd in "" " " $'\n\n' "-- dashes" $'\xff\xfe' $'caf\xc3\xa9' "[a,b]" "<|endoftext|>"; do
    run --max-new-tokens 3 --ignore-eos --json -- "$odd"
    equal "status for the prompt '$odd'" "$status" 0
    contains "json for the prompt '$odd'" "$out" '"finish_reason":"length"'
done
run --max-new-tokens 3 -- -x
equal "a prompt that begins with a dash" "$status" 0

# --- what else it prints
run --seed 42 --max-new-tokens 24 --stats "$prompt"
equal "text beside --stats" "$out" "$text"
contains "--stats" "$err" "KV cache float16, " # as the weights are
for part in "load " "time to first token" "ms per token" "tokens/s" "GB/s" "memory " "finished   length, seed 42"; do
    contains "--stats" "$err" "$part"
done
run --greedy --max-new-tokens 8 "$prompt"
plain=$out
run --greedy --max-new-tokens 8 --show-probabilities "$prompt"
equal "--show-probabilities without colours" "$(sed 's/\x1b\[[0-9;]*m//g' out.txt)" "$plain"
contains "--show-probabilities" "$out" $'\e[38;5;'
contains "what the colours mean" "$err" "at least 50 %"
run --greedy --max-new-tokens 8 --attention-html page.html "$prompt"
equal "text beside --attention-html" "$out" "$plain"
contains "--attention-html" "$(head -c 200 page.html)" "<!DOCTYPE html>"
# One byte for each weight of the triangle.
shape=$(sed -n 's/^const data = .*"layers":\([0-9]*\),"heads":\([0-9]*\),.*"weights":"\([^"]*\)"};$/\1 \2 \3/p' page.html)
read -r layers heads weights <<<"$shape"
n=$(grep -o '"tokens":\[[^]]*\]' page.html | head -1 | grep -o '","' | wc -l)
equal "weights of the page" "$(base64 -d <<<"$weights" | wc -c)" $((layers * heads * (n + 1) * (n + 2) / 2))
refused 2 "excludes" --show-probabilities --json "$prompt"
refused 2 "--attention-html shows one text" --attention-html page.html --n 2 "$prompt"
refused 2 "--attention-html shows positions as they are" --attention-html page.html --overflow slide "$prompt"
run --attention-html no-such-folder/page.html --max-new-tokens 1 "$prompt"
equal "status of a page that cannot be written" "$status" 1
contains "a page that cannot be written" "$err" "cannot write"
run --greedy --max-new-tokens 8 --logprobs "$prompt"
contains "--logprobs" "$out" "8 tokens, log p -"
run --greedy --max-new-tokens 2 --top-logprobs 3 --prompt-logprobs "$prompt"
contains "--prompt-logprobs" "$out" $'The prompt:\n   id  log p  token\n'
contains "--prompt-logprobs, the first token" "$out" '     -  "There"'
equal "lines of --top-logprobs and --prompt-logprobs" "$(grep -c '  of ".*, ".*, "' out.txt)" 10 # 9 + 2 - the first
prompt_logprobs=$(sed -n '/^The prompt/,/^The text/p' out.txt)
run --seed 1 --n 2 --max-new-tokens 1 --top-logprobs 3 --prompt-logprobs "$prompt"
equal "--prompt-logprobs of each text" "$(sed -n '/^The prompt/,/^The text/p' out.txt)" "$prompt_logprobs
$prompt_logprobs"
run --greedy --max-new-tokens 1 --json --top-logprobs 2 --prompt-logprobs "$prompt"
contains "--json --top-logprobs" "$out" '"top_logprobs":[[{"id":'
contains "--json --prompt-logprobs" "$out" '"prompt_logprobs":[null,-'
run --seed 3 --num-return-sequences 2 --max-new-tokens 1 --prompt-logprobs "$prompt"
equal "--prompt-logprobs of several texts" "$(grep -c '^The prompt' out.txt) $(grep -c ' -  "There"' out.txt)" "2 2"
refused 2 "prompt_logprobs and num_beams" --num-beams 2 --prompt-logprobs "$prompt"
refused 2 "top_logprobs is -1" --top-logprobs -1 "$prompt"
run --greedy --max-new-tokens 8 --json --logprobs --stats "$prompt"
contains "--json --logprobs" "$out" '"logprobs":[-'
contains "--json --stats" "$out" '"ttft_s":'
for weights in f32 f16 bf16 int8 int4; do
    run --greedy --max-new-tokens 4 --weights $weights --kv-dtype float16 "$prompt"
    equal "status of --weights $weights" "$status" 0
    run --greedy --max-new-tokens 4 --weights $weights --kv-dtype float32 --stats "$prompt"
    contains "--kv-dtype float32" "$err" "KV cache float32, "
done

# --- prompts one by one
printf '%s\n\n%s\n' "$prompt" "$prompt" |
    "$program" --model "$model" --interactive --seed 42 --max-new-tokens 24 >out.txt 2>err.txt
equal "status of --interactive" $? 0
equal "first text of --interactive" "$(head -c ${#text} out.txt)" "$text"
equal "last text of --interactive" "$(tail -c $((${#text} + 1)) out.txt)" "$text"
equal "messages of --interactive" "$(cat err.txt)" ""

# While it waits for the next prompt, the text is out, in about one write for each token.
mkfifo prompts texts
"$program" --model "$model" --interactive --seed 42 --max-new-tokens 24 <prompts >texts 2>err.txt &
pid=$!
exec 4>prompts 5<texts
printf '%s\n' "$prompt" >&4
equal "text while it waits" "$(head -c ${#text} <&5)" "$text"
if [ -r /proc/$pid/io ]; then
    writes=$(sed -n 's/^syscw: //p' /proc/$pid/io)
    checks=$((checks + 1))
    [ "$writes" -ge 20 ] || fail "expected a write for each of 24 tokens, found $writes"
fi
exec 4>&-
wait $pid
equal "status after the last prompt" $? 0
exec 5<&-

# --- as the original's scripts
bar=$(printf '=%.0s' {1..40})
run --preset openai --seed 42 --sample 1 --max-new-tokens 24 --temperature 0.8 --top-k 40 "$prompt"
second_original=$out
run --preset openai --seed 42 --max-new-tokens 24 --temperature 0.8 --top-k 40 "$prompt"
printf '%s\n\n' "$prompt" | "$program" --model "$model" -s 42 -n 2 --top_k=40 --top_p=1 -l 24 --temperature 0.8 \
    >out.txt 2>err.txt
equal "status of the founding command line" $? 0
equal "messages of the founding command line" "$(cat err.txt)" ""
equal "texts of the founding command line" "$(cat out.txt)" "Model prompt >>> $bar SAMPLE 1 $bar
$out
$bar SAMPLE 2 $bar
$second_original
$bar$bar
Model prompt >>> Prompt should not be empty!
Model prompt >>> "
run -s 42 -n 4 --batch_size 2 -l 24 "$prompt"
batched=$out
run -s 42 -n 4 -l 24 "$prompt"
equal "--batch_size" "$batched" "$out"
refused 2 "--batch-size is 2, expected a number that divides --n, 3" -n 3 --batch-size 2 "$prompt"
refused 2 "--batch-size is 0" --batch-size 0 "$prompt"
refused 2 "--load-session is for one text at a time" -n 2 --batch-size 2 --load-session x "$prompt"
run --unconditional --nsamples 1 --seed 5 --length 6
first_unconditional=$out
run --preset openai --seed 5 --max-new-tokens 6 ""
equal "--unconditional" "$first_unconditional" "$bar SAMPLE 1 $bar
$out"
run -l 6 -s 5 "$prompt"
contains "the original's way with a prompt" "$out" "$bar SAMPLE 1 $bar"
mkdir -p folder
ln -s "$model" folder/124M.safetensors
equal "--models_dir" "$("$program" --models_dir folder -s 5 --length 6 "$prompt")" "$out"
equal "--model_name" "$("$program" --models_dir folder --model_name 124M -s 5 --length 6 "$prompt")" "$out"
refused 2 "--model excludes --model-name" --model_name 124M "$prompt"
refused 2 "--preset is given beside" --preset openai --length 6 "$prompt"
refused 2 "excludes" --length 6 --max-new-tokens 6 "$prompt"
refused 2 "excludes" --unconditional "$prompt"
refused 2 "max_new_tokens is -1" --length -1 "$prompt"
checks=$((checks + 1))
"$program" --models_dir folder --model_name 345M x 2>err.txt && fail "a model that is not there was found"
contains "a model that is not there" "$(cat err.txt)" "found neither folder/345M nor folder/345M.safetensors"

checks=$((checks + 1))
[ ! -e "$XDG_STATE_HOME" ] || fail "a history was kept although nobody is at a terminal"
refused 2 "--no-history is set but has no effect" --no-history "$prompt"

# --- at a terminal
at_terminal() { python3 -B "$tests/at_terminal.py" "$@"; }
found=$(at_terminal "> " "$prompt" -- "$program" --model "$model" -i --seed 42 --max-new-tokens 24)
equal "status at a terminal" $? 0
contains "text at a terminal" "$found" "$text"
if ldd "$program" 2>/dev/null | grep -q libedit; then
    found=$(at_terminal "> " "$prompt" $'\e[A' -- "$program" --model "$model" -i --seed 42 --max-new-tokens 24)
    equal "texts of a line and of the line before" "$(grep -c -F "${text##*$'\n'}" <<<"$found")" 2
    history=$XDG_STATE_HOME/gpt2/history
    equal "history" "$(cat "$history")" "$prompt"
    equal "who may read the history" "$(stat -c %a "$history")" 600
    ask() { at_terminal "> " "$@" -- "$program" --model "$model" -i --seed 42 --max-new-tokens 24 $more; }
    more=
    contains "text of a line of an earlier run" "$(ask $'\e[A')" "$text"
    equal "history after the same line" "$(cat "$history")" "$prompt"
    ask "" "another" >/dev/null
    equal "history after another line" "$(cat "$history")" "$prompt"$'\nanother'
    more=--no-history
    contains "text without a history" "$(ask "$prompt")" "$text"
    equal "history that was not wanted" "$(cat "$history")" "$prompt"$'\nanother'
    more=
    seq -s $'\n' 1500 >"$history" # its last line is torn
    chmod 644 "$history"
    ask "last" >/dev/null
    equal "lines of a long history" "$(wc -l <"$history")" 1001
    equal "end of a long history" "$(tail -n 2 "$history")" $'1500\nlast'
    equal "who may read a long history" "$(stat -c %a "$history")" 600
    rm -r "$XDG_STATE_HOME"
    touch "$XDG_STATE_HOME" # where a folder should be
    found=$(ask "$prompt")
    equal "status without a place for the history" $? 0
    contains "text without a place for the history" "$found" "$text"
    contains "message without a place for the history" "$found" "cannot write the history"
    rm "$XDG_STATE_HOME"
fi

# --- the model is found from where one is
mkdir -p here/models
ln -s "$model" here/models/novella-f16.safetensors
equal "models/novella-f16.safetensors in the current directory" \
    "$(cd here && "$program" --seed 42 --max-new-tokens 24 "$prompt")" "$text"

# --- output that cannot be written
if [ -e /dev/full ]; then
    "$program" --model "$model" "$prompt" >/dev/full 2>err.txt
    equal "status with a full disk" $? 1
    contains "message with a full disk" "$(cat err.txt)" "cannot write to standard output"
fi
endless=(--model "$model" --seed 42 --overflow slide --ignore-eos --max-new-tokens 100000000)
"$program" "${endless[@]}" "$prompt" 2>err.txt | head -c 20 >out.txt # would not end if it went on
equal "text of which the reader had enough" "$(cat out.txt)" "${text:0:20}"
equal "message when the reader had enough" "$(cat err.txt)" ""

# --- the text streams, and Ctrl-C ends it with what there is
interrupt() { # SIGNAL STATUS ARGUMENT...
    local signal=$1 expected=$2
    shift 2
    mkfifo fifo
    "$program" "${endless[@]}" --stats "$@" "$prompt" >fifo 2>err.txt &
    local pid=$!
    exec 3<fifo
    head -c 30 <&3 >begin.txt # arrives although the text goes on
    kill -s "$signal" $pid
    cat <&3 >rest.txt
    exec 3<&-
    wait $pid
    equal "status after $signal" $? "$expected"
    equal "text before $signal" "$(cat begin.txt)" "${text:0:30}"
    equal "last byte after $signal" "$(tail -c 1 rest.txt | od -An -tx1 | tr -d ' ')" "0a"
    contains "--stats after $signal" "$(cat err.txt)" "finished   interrupted"
    rm fifo
}
interrupt INT 130
interrupt TERM 143

if [ $failed -gt 0 ]; then
    echo "$failed of $checks checks failed" >&2
    exit 1
fi
echo "$checks checks passed"
