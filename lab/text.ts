/** Every word of the page, in English and Chinese. The type is that of the English words, so none can be missing. */
import { chinese } from "./text-zh";

export interface StoryWords {
  title: string; words: string[]; question: string; answers: [string, string, string]; look: string; tries: string[]; found: string[];
}

export interface CaseWords { told: string; cause: string; cure: string }

export const english = {
  page: "Laboratory", title: "The gradient through time, by hand",
  intro: "Train a recurrent network, change anything, and watch the exact gradient between every two moments.",
  language: "Language", theme: "Colors", themes: { auto: "Auto colors", light: "Light", dark: "Dark" },
  undo: "Undo", link: "Copy link", copied: "Copied", hide: "Hide the story", story: "The story in seven steps", storyShort: "Story",
  train: "Train", pause: "Pause", one: "One update", hundred: "100 updates", restart: "Start over", another: "Other sequence",
  speed: "Speed", speeds: { slow: "2 a second", medium: "20 a second", fast: "full speed" },
  status: (step: number, loss: string, norm: string) => `update ${step} · loss ${loss} · gradient norm ${norm}`,
  untrained: "not trained yet",
  failed: "The loss is NaN or infinite: an update was too large. Undo, or start over, with clipping or a smaller rate.",
  playing: (at: number, of: number) => `replaying the case: update ${at} of ${of}`,
  groups: { network: "Network", task: "Task", training: "Training", pair: "The pair of steps" },
  labels: {
    cell: "Cell", H: "Hidden units", start: "W starts as", scale: "Scale of W", radius: "Spectral radius ρ(W)", input: "Scale of U",
    keep: "Bias of the forget gate", keepGRU: "Bias of the update gate", task: "Task", T: "Length T", lag: "Lag to remember",
    loss: "Loss", text: "Text (paste your own, up to 4,000 characters)", rate: "Learning rate", optimizer: "Optimizer", clip: "Clip at norm", truncation: "Truncate BPTT after",
    B: "Batch", t: "error at step t", k: "state at step k", seed: "Seed",
  },
  cells: { tanh: "tanh", relu: "ReLU", gru: "GRU", lstm: "LSTM" },
  starts: { uniform: "uniform ±1/√H", orthogonal: "orthogonal", identity: "identity" },
  tasks: { echo: "echo: repeat after a lag", adding: "adding two marked numbers", copy: "copy after a wait", order: "temporal order", text: "next character" },
  losses: { every: "at every step", last: "at the last step" },
  optimizers: { adam: "Adam", sgd: "plain (SGD)" },
  off: "off", steps: (n: number) => (n === 1 ? "1 step" : `${n} steps`),
  controls: "Controls", figures: "Pictures", controlsHidden: "The controls are hidden: read the pictures first.", showControls: "Show the controls",
  axes: { error: "error at step t", state: "state at step k", step: "step j", term: "step k", lag: "lag t − k", updates: "updates" },
  gates: { candidate: "tanh: candidate", update: "σ: update gate", forget: "σ: forget gate" },
  mean: "mean", chance: "best guess without memory", clippedAt: (value: string) => `clipped at ${value}`,
  keys: "Arrow keys move the pair: ← → the state k, ↑ ↓ the error t.",
  pictures: {
    graph: {
      title: "The network, unrolled in time",
      now: (t: number, k: number, norm: string) => `Squares are the units of a state: blue negative, orange positive. An arrow between states is orange and thick where the Jacobian stretches, blue and thin where it shrinks. The path from E${sub(t)} back to s${sub(k)} is as thick as the gradient that is left: ${norm}.`,
    },
    heatmap: {
      title: "Gradient between every two steps",
      now: (t: number, k: number, norm: string, own: string) => `‖∂E${sub(t)}/∂s${sub(k)}‖ = ${norm}; at its own step it is ${own}. Click a cell. Follow a row from the diagonal to the left: where it grows dark, the gradient vanishes; where it grows bright, it explodes.`,
      cut: (length: number) => ` What lies left of the dashed line, ${length} steps back or more, is cut off by the truncation and changes no weight.`,
    },
    chain: {
      title: "The chain of Jacobians",
      now: (lag: number, below: number, norm: string) => lag === 0 ? "t = k: there is no Jacobian between them, and the product is 1." : `${lag} Jacobian${lag > 1 ? "s" : ""} between the two steps, ${below} of them with a norm below 1. The norm of the product: ${norm}.`,
      steps: (below: number, all: number) => `${below} of ${all} Jacobians have a norm below 1.`,
    },
    activation: {
      title: "f and f′, and the network on them",
      now: (slope: string, size: string) => `Gray: how often each value of the argument occurs in the sequence; dots: the units at step t. Mean slope ${slope}, mean size of the argument ${size}.`,
      parts: (input: string, recurrent: string) => ` Mean sizes of its parts: U xₜ + b ${input}, W sₜ₋₁ ${recurrent}.`,
      gate: (name: string, value: string) => ` ${name}: ${value} on average.`,
    },
    terms: {
      title: "The terms of ∂Eₜ/∂W",
      now: (t: number, k: number, size: string, share: string) => `Term k = ${k} of ∂E${sub(t)}/∂W has the norm ${size}. Bars: norms, logarithmic. Matrices: the terms themselves on one scale, as the sum sees them. The term k = t makes up ${share} % of all norms.`,
    },
    lags: {
      title: "Share of ∂E/∂W by lag",
      now: (lag: number, share: string, near: string) => `Lag ${lag} brings ${share} % of the gradient by W; lags 0 to 2 bring ${near} %. The shares add up to 100 %.`,
      kept: (length: number, share: string) => ` Truncation after ${length} keeps ${share} %.`,
    },
    loss: { title: "Loss", none: "The loss per scored step, update by update. Press Train.", now: (n: number, loss: string, chance: string) => `After ${n} updates the loss is ${loss} on average (thick; pale: each update); the best guess without memory has ${chance}.` },
    norm: { title: "Gradient norm", none: "The norm of the gradient of each update, before clipping.", now: (now: string, most: string) => `Now ${now}; at most ${most} in the last 100 updates.`, clipped: (share: string) => ` ${share} % of them were clipped.` },
  },
  equation: {
    title: "The equation with its numbers",
    vector: "gradient of the loss by the state", chain: "the chain of Jacobians", immediate: "where W acts", total: "this term", reached: "what arrives at step k", term: "term",
    own: (lag: number) => `, ${lag} factor${lag === 1 ? "" : "s"}`,
  },
  question: "First predict: ", findOut: "Now find out. ", explain: "What happened", right: "That is right.", wrong: "Look again:",
  previous: "Back", next: "Next", stepOf: (n: number) => `Step ${n} of 7`,
  caseTitle: (n: number) => `Case ${n}`, caseQuestion: "What is wrong with this network, and what would you change? Decide from the pictures alone.",
  caseReveal: "Show the answer", cause: "Cause: ", cure: "Cure: ", tryCure: "Apply the cure and train", cases: "Five cases to diagnose",
  own: { title: "Your network", measured: "Measured by rg.gradient_flow. The pictures read it; they do not train it.", weights: "The layer’s own weights are behind the pictures." },
  stories: [
    {
      title: "Symbols and memory",
      words: [
        "A recurrent network reads a sequence x₁, x₂, … one symbol at a time. After each it has a state sₜ = f(U xₜ + W sₜ₋₁): U lets the symbol in, W brings in the state from before, and f (here tanh) keeps every entry between −1 and 1. Every step uses the same U and W.",
        "In the picture a column of squares is one state, and the letter below it is what the network read.",
      ],
      question: "Suppose that W were zero. What would the last state still know of the first letter?",
      answers: ["Everything", "A little", "Nothing"],
      look: "Look at two columns above the same letter, and at the heat map.",
      tries: ["Set W to zero", "Put W back"],
      found: ["Nothing. Without W, sₜ = f(U xₜ): the same letter gives the same column at every step, and the heat map has only its diagonal. W is the memory; what it does when it is applied again and again is this whole story."],
    },
    {
      title: "The loss",
      words: [
        "At each step the network predicts: ŷₜ = softmax(V sₜ), a probability for each letter. Here it must repeat the letter of two steps before. The loss of a step is Eₜ = −yₜ · log ŷₜ: the logarithm of the probability it gave to the right letter, with a minus. Together E = Σₜ Eₜ.",
        "Bars above the states are the Eₜ; below them stand the right letter and the one the network says.",
      ],
      question: "The network is not trained and there are four letters. How large is each Eₜ, about?",
      answers: ["0", "1.39, which is log 4", "10"],
      look: "Look at the loss: where it starts, and at the dashed line.",
      tries: ["Make 200 updates"],
      found: ["About log 4 = 1.39: it gives each letter about a quarter. Training moves U, W and V against the gradient of E, and the loss falls. How to find ∂E/∂W, when the same W was used at every step, is the next question."],
    },
    {
      title: "One term of the gradient",
      words: [
        "Take the third loss, E₃. It depends on s₃ = f(U x₃ + W s₂). But s₂ was itself made with W, from s₁, and so on. If W changes a little, E₃ changes through each of these steps.",
        "The term of step k says what comes from W at step k alone: ∂E₃/∂ŷ₃ · ∂ŷ₃/∂s₃ leads from the loss to the state, ∂s₃/∂sₖ back in time, and ∂sₖ/∂W is W acting at step k with sₖ₋₁ held fixed.",
      ],
      question: "How many such terms does ∂E₃/∂W have?",
      answers: ["One", "Three", "Five, as many as there are steps"],
      look: "Look at the path in the network, and at the equation with its numbers.",
      tries: ["The term k = 3", "The term k = 2", "The term k = 1"],
      found: ["Three, for k = 1, 2, 3; later steps cannot change an earlier loss. For k = 2 the path crosses one Jacobian, ∂s₃/∂s₂. The term k = 1 is exactly zero here, because W was multiplied by s₀ = 0; the term of U is not."],
    },
    {
      title: "All terms",
      words: [
        "∂Eₜ/∂W = Σₖ ∂Eₜ/∂ŷₜ · ∂ŷₜ/∂sₜ · (Πⱼ ∂sⱼ/∂sⱼ₋₁) · ∂sₖ/∂W, with k from 1 to t and j from k + 1 to t. Backpropagation through time is this sum for every t, taken in one sweep from the last step to the first.",
        "The heat map shows all of it at once: row t is the loss, column k the state that it reaches.",
      ],
      question: "The network is as torch starts it. Where will the heat map be brightest?",
      answers: ["On the diagonal, k = t", "In the first column, k = 1", "Everywhere the same"],
      look: "Walk from the diagonal to the left with the arrow keys.",
      tries: ["The last loss and its own step", "The last loss and the first step"],
      found: ["On the diagonal. Each step to the left adds one Jacobian to the product, and with these weights each of them shrinks it. The bars by lag say what that means for learning: nearly all of ∂E/∂W comes from the last few steps."],
    },
    {
      title: "The gradient vanishes",
      words: [
        "The product Π ∂sⱼ/∂sⱼ₋₁ has t − k factors, and each is ∂sⱼ/∂sⱼ₋₁ = diag(f′(zⱼ)) W. If their norms stay below 1, the product shrinks at least as fast as the powers of that number. It is a matter of the norm, not of a sign: −0.6 shrinks as 0.6 does.",
        "Here the network reads four letters, waits, and must then say them: each has to be remembered for sixteen steps.",
      ],
      question: "Each Jacobian has a norm of 0.6. How much of the gradient can be left after sixteen of them?",
      answers: ["About a half", "Less than a thousandth", "Ten times as much"],
      look: "Look at the chain of Jacobians and at f′ after each try; then train it.",
      tries: ["Orthogonal W, ρ = 1", "W as torch starts it", "Orthogonal W, large inputs", "Train 400 updates"],
      found: [
        "0.6¹⁶ = 0.0003. With an orthogonal W every singular value is 1: the gradient reaches back, and the letters are learned. As torch starts W, its norm is a little above 1 and its spectral radius about 0.6: the product vanishes all the same. A norm below 1 suffices for vanishing; a norm above 1 does not prevent it.",
        "Large inputs make it vanish in another way: the units sit where tanh is flat and f′ is near 0, whatever W is.",
      ],
    },
    {
      title: "It explodes, and is clipped",
      words: [
        "If the norms of the Jacobians exceed 1, the product can grow with every step: the gradient explodes. A single update then throws the weights far away. Clipping does not remove the cause; it limits the step: if ‖g‖ is larger than a threshold, g is multiplied by threshold/‖g‖, which keeps its direction.",
      ],
      question: "Twenty Jacobians in a row each stretch by 1.3. By what factor does their product stretch?",
      answers: ["26", "About 190", "It stays at 1.3"],
      look: "Look at the gradient norm and the loss. Undo brings the network back after each try.",
      tries: ["Train without clipping", "Clip at norm 1, and train"],
      found: ["1.3²⁰ ≈ 190. Without clipping some gradients have norms of hundreds and thousands; each throws the weights far away, and the loss ends higher than it began. With clipping the same gradients are cut at the orange line, and the task is learned. Norms above 1 make explosion possible, not certain: where units saturate, f′ brings the product down again."],
    },
    {
      title: "ReLU, GRU, LSTM",
      words: [
        "ReLU has the slope 1 where a unit is on, so f′ takes nothing away; with W near the identity a state is simply kept. Gated cells go further. In an LSTM cₜ = fₜ ⊙ cₜ₋₁ + iₜ ⊙ gₜ: along c the Jacobian is the forget gate fₜ itself, and no W is in the way. A GRU has hₜ = (1 − zₜ) ⊙ nₜ + zₜ ⊙ hₜ₋₁, with the update gate zₜ in that place.",
      ],
      question: "Which keeps most of the gradient over ten steps before any training?",
      answers: ["tanh as torch starts it", "LSTM with a forget gate at ½", "LSTM with forget bias 3"],
      look: "Compare the chains; then train each: five letters, a wait, and each is asked 25 steps later.",
      tries: ["tanh", "ReLU, identity", "GRU, bias 3", "LSTM, gate at ½", "LSTM, bias 3", "Train 500 updates"],
      found: ["The LSTM with bias 3: its forget gates are at σ(3) ≈ 0.95, and 0.95¹⁰ ≈ 0.6 of the gradient along c is left; at ½ it would be 0.001. A bias of about log(lag) opens the gate far enough. It is then learned where the tanh network stays at chance."],
    },
  ] as StoryWords[],
  diagnoses: [
    { told: "An echo over ten steps. The loss stays where guessing is.", cause: "The gradient vanishes because W is too small: the Jacobians have norms far below 1 while the units are not saturated (f′ near 1). The rows of the heat map grow dark from the diagonal on.", cure: "Start with an orthogonal W (or take a gated cell), so that the norms are near 1." },
    { told: "Four letters, a wait, then the letters again. Here too the loss stays where guessing is.", cause: "The gradient vanishes because the units are saturated: the arguments of tanh are far out, f′ is near 0, and the Jacobians are small although W is not. Most of the argument comes from the input, U xₜ + b.", cure: "Make the inputs (U) smaller, or scale the data, so that tanh works where it is steep." },
    { told: "An echo over three steps, which is easy. Training begins, and the loss rises above guessing.", cause: "The gradient explodes: all Jacobians have norms above 1, their product grows with the lag, and the gradient has norms of up to 100. An update of plain SGD is as long as the gradient, so that the first few throw the weights away.", cure: "Clip the gradient, so that every update is short. A smaller W, with norms near 1, helps too." },
    { told: "The letters again. Here the gradient reaches the letters, and still nothing is learned.", cause: "Backpropagation is truncated too early: the heat map beyond the dashed line never reaches the weights, and the lag that matters lies there.", cure: "Truncate later than the lag that the task needs, or not at all." },
    { told: "An LSTM, which should remember, does not.", cause: "The forget gates are closed: their arguments are far to the left, the gates are near 0, and so is the Jacobian along c.", cure: "Start with a larger bias of the forget gate, about the logarithm of the lag." },
  ] as CaseWords[],
};

export type Words = typeof english;

export function sub(step: number): string {
  return [...String(step)].map((sign) => "₀₁₂₃₄₅₆₇₈₉"[Number(sign)]).join("");
}

export const LANGUAGES: Record<"en" | "zh-CN", Words> = { en: english, "zh-CN": chinese };

export const TEXTS = {
  en: "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of light, it was the season of darkness, it was the spring of hope, it was the winter of despair.",
  "zh-CN": "床前明月光，疑是地上霜。举头望明月，低头思故乡。春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",
};
