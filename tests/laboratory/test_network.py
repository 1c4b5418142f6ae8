"""The network of the page, in real Chromium, against `rg.reference` in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrograde as rg
from retrograde.laboratory import PAGE

pytestmark = pytest.mark.browser
D, H, K, T = 3, 6, 4, 9


class Case:
    """A random problem: the cell of the reference, its head, inputs and targets."""

    def __init__(self, cell: str, last: bool, scale: float = 1.0, seed: int = 0, steps: int = T) -> None:
        self.cell, self.last, self.T = cell, last, steps
        self.rng = rng = np.random.default_rng(seed)
        self.x, self.targets = rng.standard_normal((steps, D)), rng.integers(0, K, steps)
        self.scored = np.arange(steps) >= (steps - 1 if last else 0)
        outputs = "last" if last else "every"
        nonlinearity = cell if cell in ("tanh", "relu") else "tanh"
        self.net = rg.reference.Network.random(D, H, K, nonlinearity=nonlinearity, outputs=outputs, seed=rng)
        self.net.W[:] *= scale
        if cell in ("gru", "lstm"):
            self.layer = (rg.reference.GRU if cell == "gru" else rg.reference.LSTM).random(D, H, seed=rng)
            self.layer.weight_hh[:] *= scale

    def problem(self, **more: Any) -> dict[str, Any]:
        head = {"V": self.net.V, "c": self.net.c}
        if self.cell in ("tanh", "relu"):
            own = {"U": self.net.U, "W": self.net.W, "b": self.net.b}
        else:
            own = {"U": self.layer.weight_ih, "W": self.layer.weight_hh, "b": self.layer.bias_ih + self.layer.bias_hh}
            if self.cell == "gru":
                own |= {"n": self.layer.bias_hh[2 * H :]}
                own["b"][2 * H :] = self.layer.bias_ih[2 * H :]
        parameters = {name: value.ravel().tolist() for name, value in {**own, **head}.items()}
        scored = self.scored.astype(float).tolist()
        y = np.eye(K)[self.targets].ravel().tolist()
        sizes = {"cell": self.cell, "D": D, "H": H, "K": K, "T": self.T}
        return {**sizes, "parameters": parameters, "x": self.x.ravel().tolist(), "y": y, "scored": scored, **more}

    def adopt(self, shown: dict[str, Any]) -> None:
        """Take the network and the sequence that the page shows; its steps without a loss are those of an echo."""
        sizes = {"U": "D", "W": "H", "V": "H"}
        own = {
            name: np.reshape(values, (-1, shown[sizes[name]])) if name in sizes else np.array(values)
            for name, values in shown["parameters"].items()
        }
        self.x, y = np.reshape(shown["x"], (self.T, -1)), np.reshape(shown["y"], (self.T, -1))
        self.targets, self.scored = y.argmax(1), np.array(shown["scored"]) > 0
        head = {"V": own["V"], "c": own["c"]}
        if self.cell in ("tanh", "relu"):
            self.net = rg.reference.Network(own["U"], own["W"], b=own["b"], nonlinearity=self.cell, **head)
            return
        H, b = shown["H"], own["b"]
        kind = rg.reference.GRU if self.cell == "gru" else rg.reference.LSTM
        state_bias = np.zeros(len(b))
        state_bias[2 * H :][: len(own["n"])] = own["n"]
        self.layer = kind(own["U"], own["W"], b, state_bias)
        self.net = rg.reference.Network(np.zeros((H, 1)), np.zeros((H, H)), **head)

    # -- the same by the reference -----------------------------------------------------------------------------------

    @property
    def scored_targets(self) -> np.ndarray:
        return self.targets[-1:] if self.last else self.targets

    def states(self) -> tuple[np.ndarray, np.ndarray | None]:
        """h (T + 1, H), and c."""
        if self.cell in ("tanh", "relu"):
            return rg.reference.forward(self.net, self.x).s, None
        if self.cell == "gru":
            return rg.reference.gru_forward(self.layer, self.x).h, None
        found = rg.reference.lstm_forward(self.layer, self.x)
        return found.h, found.c

    def head(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ŷ (T, K), E_t (T,) and ∂E_t/∂o_t (T, K), zero where there is no loss."""
        o = self.states()[0][1:] @ self.net.V.T + self.net.c
        y = np.eye(len(self.net.V))[self.targets]
        losses = np.where(self.scored, rg.reference.cross_entropy(o, y), 0)
        return rg.reference.softmax(o), losses, rg.reference.cross_entropy_gradient(o, y) * self.scored[:, None]

    def gradients(self, truncation: int | None) -> dict[str, np.ndarray]:
        if self.cell in ("tanh", "relu"):
            return self.vanilla_gradients(truncation)
        h, do = self.states()[0], self.head()[2]
        backward = rg.reference.gru_gradients if self.cell == "gru" else rg.reference.lstm_gradients
        found = backward(self.layer, self.x, do @ self.net.V, truncation=truncation)
        b = {"U": found.weight_ih, "W": found.weight_hh, "b": found.bias_ih, "V": do.T @ h[1:], "c": do.sum(0)}
        return {**b, "n": found.bias_hh[2 * h.shape[1] :]} if self.cell == "gru" else b

    def vanilla_gradients(self, truncation: int | None) -> dict[str, np.ndarray]:
        """Where an early step has no loss: the gradient of the sum less those of the losses that are not scored."""
        names = ("U", "W", "b", "V", "c")
        found = rg.reference.gradients(self.net, self.x, self.scored_targets, truncation=truncation)
        whole = {name: getattr(found, name) for name in names}
        for t in np.flatnonzero(~self.scored) if not self.last else ():
            assert truncation is None
            one = dataclasses.replace(self.net, outputs="last")
            part = rg.reference.gradients(one, self.x[: t + 1], self.targets[t : t + 1])
            whole = {name: whole[name] - getattr(part, name) for name in names}
        return whole

    def jacobians(self) -> list[np.ndarray]:
        if self.cell in ("tanh", "relu"):
            states = rg.reference.forward(self.net, self.x)
            return [rg.reference.jacobian(self.net, states, t) for t in range(1, self.T + 1)]
        if self.cell == "gru":
            states = rg.reference.gru_forward(self.layer, self.x)
            return [rg.reference.gru_jacobian(self.layer, states, t) for t in range(1, self.T + 1)]
        states = rg.reference.lstm_forward(self.layer, self.x)
        return [rg.reference.lstm_jacobian(self.layer, states, t) for t in range(1, self.T + 1)]

    def products(self, t: int) -> list[np.ndarray]:
        """∂s_t/∂s_k for k = 0 … t."""
        J, found = self.jacobians(), [np.eye(len(self.jacobians()[0]))]
        for k in range(t, 0, -1):
            found.append(found[-1] @ J[k])
        return found[::-1]

    def norms(self) -> np.ndarray:
        """‖∂E_t/∂s_k‖ (T, T)."""
        found, own = np.zeros((self.T, self.T)), self.head()[2] @ self.net.V
        for t in range(self.T):
            for k, product in enumerate(self.products(t)):
                found[t, k] = np.linalg.norm(own[t] @ product[: own.shape[1]])  # the output reads h alone
        return found


def close(got: Any, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    expected = np.asarray(expected)
    got = np.asarray(got, dtype=np.float64).reshape(expected.shape)
    assert np.abs(got - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-3)


@pytest.fixture(scope="module")
def compute(browser: Any) -> Any:
    browser.get(PAGE.as_uri())
    return lambda *arguments: browser.execute_script("return retrograde.compute(...arguments)", *arguments)


CASES = [(cell, last, scale) for cell in ("tanh", "relu", "gru", "lstm") for last in (False, True) for scale in (1, 3)]


@pytest.mark.parametrize(("cell", "last", "scale"), CASES)
def test_every_number_is_that_of_the_reference(compute: Any, cell: str, last: bool, scale: float) -> None:
    case, t, k = Case(cell, last, scale), T - 1, 4
    got = compute(case.problem(), 0, t, k)
    (h, c), (y, losses, _) = case.states(), case.head()
    close(got["h"], h)
    if c is not None:
        close(got["c"], c)
    close(got["y"], y)
    close(got["losses"], losses)
    assert got["loss"] == pytest.approx(losses.sum(), rel=1e-5)
    for name, expected in case.gradients(None).items():
        close(got["gradients"][name], expected)
    norms = case.norms()
    close(got["norms"], norms)
    close(np.log(np.asarray(got["norms"])[norms > 1e-12]), np.log(norms[norms > 1e-12]))  # the small ones too
    close(got["jacobians"], np.array([np.linalg.norm(J, 2) for J in case.jacobians()]))
    close(got["products"], np.array([np.linalg.norm(P, 2) for P in case.products(t)]))
    close(got["product"], case.products(t)[k])


@pytest.mark.parametrize("cell", ["tanh", "relu", "gru", "lstm"])
@pytest.mark.parametrize("truncation", [1, 3, T])
def test_truncation_keeps_the_terms_of_short_lags(compute: Any, cell: str, truncation: int) -> None:
    case = Case(cell, last=False)
    got = compute(case.problem(truncation=truncation))
    for name, expected in case.gradients(truncation).items():
        close(got["gradients"][name], expected)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_the_terms_of_one_loss_are_those_of_the_reference(compute: Any, nonlinearity: str) -> None:
    case, t = Case(nonlinearity, last=False), 5
    terms = rg.reference.gradient_terms(case.net, case.x, case.targets, t=t + 1)
    for k in (0, 2, 5):
        got = compute(case.problem(), 0, t, k)
        close(got["term"], terms[k].W)
        close(got["terms"][t][: t + 1], np.array([np.linalg.norm(term.W) for term in terms]))


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_a_share_is_what_truncation_adds(compute: Any, cell: str) -> None:
    """⟨g_lag, g⟩ / ‖g‖², where g_lag is the difference of two truncated gradients; the shares add up to 1."""
    case = Case(cell, last=False)
    kept = [case.gradients(length)["W"] for length in range(1, T + 1)]
    parts = np.diff([np.zeros_like(kept[0]), *kept], axis=0)
    whole = kept[-1]
    got = compute(case.problem())
    close(got["share"], np.array([(part * whole).sum() for part in parts]) / (whole**2).sum())
    assert sum(got["share"]) == pytest.approx(1, abs=1e-5)
    assert got["total"] == pytest.approx(np.linalg.norm(whole), rel=1e-5)


def test_the_gradient_of_a_batch_is_the_mean_over_its_sequences(compute: Any) -> None:
    alone = [Case("lstm", last=False, seed=0), Case("lstm", last=False, seed=0)]
    alone[1].x, alone[1].targets = alone[1].x[::-1].copy(), alone[1].targets[::-1].copy()
    problem = alone[0].problem(B=2)
    for name in ("x", "y"):
        parts = [np.reshape(case.problem()[name], (T, 1, -1)) for case in alone]
        problem[name] = np.concatenate(parts, 1).ravel().tolist()
    problem["scored"] = [1.0] * (2 * T)
    got, second = compute(problem), compute(problem, 1)
    for name, expected in alone[0].gradients(None).items():
        close(got["gradients"][name], (expected + alone[1].gradients(None)[name]) / 2)
    close(got["norms"], alone[0].norms())
    close(second["norms"], alone[1].norms())


def test_squared_errors(compute: Any) -> None:
    case = Case("tanh", last=True)
    y = case.rng.standard_normal((T, K))
    got = compute(case.problem(head="squares", y=y.ravel().tolist()))
    h = case.states()[0]
    error = h[-1] @ case.net.V.T + case.net.c - y[-1]
    assert got["loss"] == pytest.approx((error**2).sum() / 2, rel=1e-5)
    close(got["gradients"]["V"], np.outer(error, h[-1]))
    assert got["norms"][T - 1][T - 1] == pytest.approx(np.linalg.norm(error @ case.net.V), rel=1e-5)


def test_fifty_steps_and_thirty_two_units(compute: Any) -> None:
    global H
    H, before = 32, H
    try:
        case = Case("lstm", last=False, steps=50)
        got = compute(case.problem())
        close(got["norms"], case.norms())
        for name, expected in case.gradients(None).items():
            close(got["gradients"][name], expected)
    finally:
        H = before


def test_a_browser_without_vectors_computes_the_same(browser: Any, tmp_path: Path) -> None:
    """Bit for bit, so that an address brings the same training back everywhere; norms of matrices are iterated."""
    plain = tmp_path / "plain.html"
    plain.write_text(PAGE.read_text(encoding="utf-8").replace(" 'wasm-unsafe-eval'", ""), encoding="utf-8")
    train = """
      const page = retrograde.page, { lab } = page;
      return ['tanh', 'relu', 'gru', 'lstm'].map((cell, i) => {
        lab.open(`lang=en&story=0&cell=${cell}&H=${[13, 32, 10, 16][i]}&T=11&B=5&truncation=${4 * (i % 2)}`);
        for (let step = 0; step < 6; step++) lab.update();
        const { loss, losses, h, y, gradients, norms, share, jacobians, products } = retrograde.now(page).numbers;
        return [{ loss, losses, h, y, gradients, norms, share }, [jacobians, products]];
      });
    """
    found = []
    for page, vectors in ((PAGE, True), (plain, False)):
        browser.get("about:blank")
        browser.get(page.as_uri())
        assert browser.execute_script("return retrograde.vectors") == vectors
        found.append(browser.execute_script(train))
    for (exact, iterated), (same, near) in zip(*found, strict=True):
        assert exact == same
        for one, other in zip(iterated, near, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
