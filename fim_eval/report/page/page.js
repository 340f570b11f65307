// The page's one script: colours, and the browser of tasks. What it shows is set as text, never as
// markup. How the data stands in the page: packing.py.
"use strict";
(() => {
  const root = document.documentElement;

  // Colours: as the system says, unless a button says otherwise.
  const themes = document.querySelector(".theme");
  const buttons = [...themes.querySelectorAll("button")];
  const setTheme = (name) => {
    if (name) root.dataset.theme = name;
    else delete root.dataset.theme;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.theme === name));
    }
  };
  const kept = (() => {
    try { return localStorage.getItem("fim-eval-theme") ?? ""; } catch { return ""; }
  })();
  setTheme(["light", "dark"].includes(kept) ? kept : "");
  themes.hidden = false;
  themes.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) return;
    setTheme(chosen.dataset.theme);
    try { localStorage.setItem("fim-eval-theme", chosen.dataset.theme); } catch { /* not kept */ }
  });

  // On paper nothing can be opened. Manifests stay as they are.
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("main > section:not(#runs) > details")) {
      part.open = true;
    }
  });

  const browser = document.getElementById("browser");
  if (browser.hidden) return;

  const ROW = 44; // pixels, as in page.css
  const CUT = 4000; // characters shown of a text, until all of it is asked for
  const COMPARED = 4_000_000; // cells of the table that a comparison may fill
  const NOT_ASKED = 0, NO_ANSWER = 1, NOT_JUDGED = 2, FIRST_VERDICT = 3;

  const form = browser.querySelector("form");
  const count = browser.querySelector(".count");
  const panes = browser.querySelector(".panes");
  const list = browser.querySelector(".list");
  const rows = browser.querySelector(".rows");
  const article = browser.querySelector(".task");

  const element = (name, properties, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties ?? {})) {
      if (key.includes("-") || key === "role") made.setAttribute(key, value);
      else made[key] = value;
    }
    made.append(...children.filter((child) => child !== null)); // strings become text nodes
    return made;
  };

  const decode = async (id) => {
    const binary = atob(document.getElementById(id).textContent);
    const bytes = new Uint8Array(binary.length);
    for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  // ---- Text that a model wrote, as text.

  const HIDDEN = /(?![\n\t ])[\p{C}\p{Z}]/gu;
  const HIDDEN_RUN = /(?![\n\t ])[\p{C}\p{Z}]+/gu;
  const escapes = new Map(); // ten million control characters are few different ones
  const escapeOf = (character) => {
    let escape = escapes.get(character);
    if (escape === undefined) {
      const code = character.codePointAt(0);
      const [mark, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
      escape = "\\" + mark + code.toString(16).padStart(digits, "0");
      escapes.set(character, escape);
    }
    return escape;
  };
  const plain = (text) => text.replace(HIDDEN, escapeOf);

  // Parts of a text, what does not print as a marked escape.
  const visible = (text) => {
    const parts = [];
    let last = 0;
    for (const found of text.matchAll(HIDDEN_RUN)) {
      parts.push(text.slice(last, found.index));
      parts.push(element("span", { className: "control", textContent: plain(found[0]) }));
      last = found.index + found[0].length;
    }
    parts.push(text.slice(last));
    return parts.filter((part) => part !== "");
  };

  // In what differs, blanks matter.
  const blanks = (text) =>
    text.replaceAll(" ", "·").replaceAll("\t", "→\t").replaceAll("\n", "↵\n");

  const isHigh = (code) => code >= 0xd800 && code <= 0xdbff;
  const cutAt = (text, length) =>
    text.length <= length ? text.length : length - (isHigh(text.charCodeAt(length - 1)) ? 1 : 0);

  // All of a long text, in blocks that are laid out when they come into view.
  const blocksOf = (text) => {
    const blocks = [];
    for (let at = 0; at < text.length;) {
      let part = text.slice(at, at + CUT + 1);
      part = part.slice(0, cutAt(part, CUT));
      const line = part.lastIndexOf("\n") + 1;
      if (at + part.length < text.length && line > 0) part = part.slice(0, line);
      blocks.push(element("div", { className: "block", textContent: plain(part) }));
      at += part.length;
    }
    return blocks;
  };

  // A `pre` of what `build` makes of a text's beginning, and a button for the rest.
  const shown = (text, label, build) => {
    const pre = element("pre", {});
    const code = element("div", { className: "code", tabIndex: 0, role: "region", "aria-label": label }, pre);
    const end = cutAt(text, CUT);
    pre.append(...build(text.slice(0, end)));
    if (end === text.length) return [code];
    const more = element("button", {
      type: "button", textContent: `Show all ${text.length.toLocaleString("en")} characters`,
    });
    const bar = element("p", { className: "more" },
      element("span", { textContent: `The first ${end.toLocaleString("en")} of ${text.length.toLocaleString("en")} characters.` }),
      more);
    more.addEventListener("click", () => {
      pre.replaceChildren(...blocksOf(text));
      bar.replaceChildren(`All ${text.length.toLocaleString("en")} characters, not compared.`);
      code.focus();
    });
    return [code, bar];
  };

  // ---- What differs, by words: the longest common subsequence of tokens.

  const tokensOf = (text) => text.match(/[\p{L}\p{N}_]+|[^\S\n]+|\n|[^]/gu) ?? [];
  const compare = (reference, answer) => {
    const a = tokensOf(reference), b = tokensOf(answer);
    let start = 0;
    while (start < a.length && start < b.length && a[start] === b[start]) start++;
    let tail = 0;
    while (tail < a.length - start && tail < b.length - start
           && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
    const x = a.slice(start, a.length - tail), y = b.slice(start, b.length - tail);
    const parts = [["same", a.slice(0, start).join("")]];
    if (x.length * y.length > COMPARED) {
      parts.push(["del", x.join("")], ["ins", y.join("")]);
    } else {
      const width = y.length + 1;
      const longest = new Uint16Array((x.length + 1) * width);
      for (let i = x.length - 1; i >= 0; i--) {
        for (let j = y.length - 1; j >= 0; j--) {
          longest[i * width + j] = x[i] === y[j]
            ? longest[(i + 1) * width + j + 1] + 1
            : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
        }
      }
      let i = 0, j = 0;
      while (i < x.length || j < y.length) {
        if (i < x.length && j < y.length && x[i] === y[j]) { parts.push(["same", x[i]]); i++; j++; }
        else if (i < x.length && (j === y.length
          || longest[(i + 1) * width + j] >= longest[i * width + j + 1])) parts.push(["del", x[i++]]);
        else parts.push(["ins", y[j++]]);
      }
    }
    parts.push(["same", a.slice(a.length - tail).join("")]);
    const joined = [];
    for (const [how, text] of parts) {
      if (text === "") continue;
      if (joined.length && joined.at(-1)[0] === how) joined.at(-1)[1] += text;
      else joined.push([how, text]);
    }
    return joined;
  };
  const difference = (reference, answer) => compare(reference, answer).flatMap(([how, text]) =>
    how === "same" ? visible(text) : [element(how, {}, ...visible(blanks(text)))]);

  // ---- The browser.

  const start = (index) => {
    const answerers = index.answerers.map(([model, strategy, run]) =>
      ({ model, strategy, run, name: plain(`${model}, ${strategy}${run === null ? "" : `, ${run}`}`) }));
    const tasks = index.ids.length;
    const headline = index.kinds.map((kind) => Math.max(0, index.policies.indexOf(index.headline[kind])));
    const unresolved = new Set(index.unresolved.map((name) => FIRST_VERDICT + index.verdicts.indexOf(name)));
    const PASSED = FIRST_VERDICT + index.verdicts.indexOf("passed");
    const kindOf = (task) => index.kind.charCodeAt(task) - 48;
    const lower = index.ids.map((id) => id.toLowerCase());

    let chosenPolicy = -1; // that of the answer, by kind
    let measure = "pass";
    const policyOf = (task) => chosenPolicy < 0 ? headline[kindOf(task)] : chosenPolicy;
    const stateOf = (task, who) => index.states[policyOf(task)][who].charCodeAt(task) - 48;
    const outcomeOf = (state) => state >> 1;
    const isRight = (state) => measure === "exact" ? (state & 1) === 1 : outcomeOf(state) === PASSED;
    const isWrong = (state) => !isRight(state) && (measure === "exact"
      ? outcomeOf(state) >= NOT_JUDGED
      : outcomeOf(state) >= FIRST_VERDICT && !unresolved.has(outcomeOf(state)));
    const wordOf = (state) => {
      const outcome = outcomeOf(state);
      if (outcome === NOT_ASKED) return "not asked";
      if (outcome === NO_ANSWER) return "no answer";
      if (outcome === NOT_JUDGED) return "not judged";
      return index.verdicts[outcome - FIRST_VERDICT];
    };

    // Choices. What never happens is not offered.
    const present = new Set();
    for (const policy of index.states) {
      for (const states of policy) {
        for (let task = 0; task < tasks; task++) present.add((states.charCodeAt(task) - 48) >> 1);
      }
    }
    const options = (name, ...pairs) => {
      form.elements[name].replaceChildren(...pairs.map(([value, words]) =>
        element("option", { value: String(value), textContent: words })));
    };
    const people = answerers.map((each, place) => [place, each.name]);
    const kinds = index.kinds.map((kind, place) => [place, kind])
      .filter(([place]) => index.kind.includes(String(place)));
    options("kind", ["", "all"], ...kinds);
    options("policy", ["-1", "as the answer is told"], ...index.policies.map((name, place) => [place, name]));
    options("who", ["", "any"], ...people);
    options("right", ["", "anybody or nobody"], ...people);
    options("wrong", ["", "anybody or nobody"], ...people);
    options("outcome", ["", "any"], ["right", "right"], ["wrong", "wrong"],
      ...[...present].filter((outcome) => outcome !== NOT_ASKED).sort((a, b) => a - b)
        .map((outcome) => [outcome, wordOf(outcome << 1)]));
    const judged = [...present].some((outcome) => outcome >= FIRST_VERDICT);
    if (!judged) {
      form.elements.measure.querySelector("[value=pass]").disabled = true;
      form.elements.measure.value = "exact";
      form.elements.measure.querySelector("[value=exact]").defaultSelected = true;
    }

    browser.querySelector(".order").textContent =
      `✓ right, ✗ wrong, ? not known, · not asked; in this order: ${answerers.map((each) => each.name).join("; ")}.`;

    let found = [];
    let selected = -1; // place in `found`
    let asked = 0; // tasks asked for, to drop what comes too late

    const filter = () => {
      const value = (name) => form.elements[name].value;
      const before = found[selected];
      chosenPolicy = Number(value("policy"));
      measure = value("measure");
      const id = value("id").trim().toLowerCase();
      const kind = value("kind"), outcome = value("outcome");
      const who = value("who") === "" ? answerers.map((_, place) => place) : [Number(value("who"))];
      const right = value("right"), wrong = value("wrong");
      const has = (state) => outcome === "right" ? isRight(state)
        : outcome === "wrong" ? isWrong(state) : outcomeOf(state) === Number(outcome);
      found = [];
      for (let task = 0; task < tasks; task++) {
        if (kind !== "" && kindOf(task) !== Number(kind)) continue;
        if (id !== "" && !lower[task].includes(id)) continue;
        if (outcome !== "" && !who.some((each) => has(stateOf(task, each)))) continue;
        if (outcome === "" && value("who") !== "" && outcomeOf(stateOf(task, who[0])) === NOT_ASKED) continue;
        if (right !== "" && !isRight(stateOf(task, Number(right)))) continue;
        if (wrong !== "" && !isWrong(stateOf(task, Number(wrong)))) continue;
        found.push(task);
      }
      const all = `${tasks.toLocaleString("en")} ${tasks === 1 ? "task" : "tasks"}`;
      count.textContent = found.length === tasks ? all : `${found.length.toLocaleString("en")} of ${all}`;
      selected = before === undefined ? -1 : found.indexOf(before);
      rows.style.height = `${found.length * ROW}px`;
      list.scrollTop = selected < 0 ? 0 : Math.max(0, selected * ROW - list.clientHeight / 2);
      draw();
      if (selected >= 0) show();
    };

    const markOf = (state) => {
      if (isRight(state)) return ["✓", "mark-right", "right"];
      if (isWrong(state)) return ["✗", "mark-wrong", "wrong"];
      return [outcomeOf(state) === NOT_ASKED ? "·" : "?", "mark-none", wordOf(state)];
    };

    const draw = () => {
      const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
      const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
      const made = [];
      for (let place = first; place < last; place++) {
        const task = found[place];
        const marks = answerers.map((_, who) => markOf(stateOf(task, who)));
        const row = element("div", {
          className: "row", id: `row-${place}`, role: "option",
          "aria-selected": String(place === selected),
          "aria-setsize": String(found.length), "aria-posinset": String(place + 1),
          "aria-label": `${plain(index.ids[task])}: ${marks.map((mark, who) => `${answerers[who].name} ${mark[2]}`).join("; ")}`,
        },
        element("span", { className: "id", textContent: plain(index.ids[task]) }),
        element("span", { className: "signs", "aria-hidden": "true" }, ...marks.map(([sign, look, word], who) =>
          element("span", { className: look, textContent: sign, title: `${answerers[who].name}: ${word}` }))));
        row.style.top = `${place * ROW}px`;
        made.push(row);
      }
      rows.replaceChildren(...made);
      if (selected >= first && selected < last) list.setAttribute("aria-activedescendant", `row-${selected}`);
      else list.removeAttribute("aria-activedescendant");
    };

    const select = (place) => {
      if (found.length === 0) return;
      selected = Math.min(found.length - 1, Math.max(0, place));
      const top = selected * ROW;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
      draw();
      show();
    };

    const pieces = new Map();
    const pieceOf = (task) => {
      let low = 0, high = index.starts.length - 1;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (index.starts[middle] <= task) low = middle;
        else high = middle - 1;
      }
      if (!pieces.has(low)) {
        if (pieces.size >= 4) pieces.delete(pieces.keys().next().value);
        pieces.set(low, decode(`piece-${low}`));
      }
      return pieces.get(low).then((piece) => piece[task - index.starts[low]]);
    };

    const show = async () => {
      const place = selected, task = found[place], number = ++asked;
      const told = await pieceOf(task);
      if (number === asked) article.replaceChildren(...taskParts(task, place, told));
    };

    const move = (words, place) => {
      const button = element("button", { type: "button", textContent: words, disabled: place < 0 || place >= found.length });
      button.addEventListener("click", () => { select(place); article.focus({ preventScroll: true }); });
      return button;
    };

    const taskParts = (task, place, [context, prefix, middle, suffix, sensitive, answers]) => {
      const lines = (prefix === "" || prefix.endsWith("\n")) && middle.endsWith("\n");
      const hole = element("mark", { className: lines ? "lines" : "inside" },
        ...(middle === "" ? ["(nothing)"] : visible(middle.slice(0, cutAt(middle, CUT)))));
      const program = element("div", { className: "code", tabIndex: 0, role: "region", "aria-label": "Program with its hole" },
        element("pre", {},
          element("span", { className: "around" }, ...visible(prefix)), hole,
          element("span", { className: "around" }, ...visible(suffix))));
      const facts = [index.kinds[kindOf(task)],
        `${middle.length.toLocaleString("en")} characters`,
        sensitive === false ? "its tests pass with the hole left empty" : null].filter(Boolean).join(" · ");
      return [
        element("h3", { textContent: plain(index.ids[task]) }),
        element("p", { className: "quiet", textContent: facts }),
        element("div", { className: "moves" }, move("Previous", place - 1), move("Next", place + 1)),
        ...(context === null ? [] : [element("p", {}, ...visible(context.slice(0, cutAt(context, CUT))))]),
        element("h4", { textContent: "Program, the reference in its place" }),
        program,
        element("p", { className: "legend" }, "Answers below, against the reference: ",
          element("del", { textContent: "only in the reference" }), ", ",
          element("ins", { textContent: "only in the answer" }), "."),
        ...answerers.flatMap((who, at) => answerParts(task, at, who, answers[at], middle)),
      ];
    };

    const answerParts = (task, at, who, answer, reference) => {
      if (answer === null) return [];
      const [failure, limit, fillings] = answer;
      const head = element("h4", { textContent: who.name });
      if (failure !== null) {
        return [head, element("p", { className: "bad" }, "no answer: ", ...visible(failure.slice(0, CUT)))];
      }
      const chosen = policyOf(task);
      const ordered = [...fillings].sort((a, b) => b[3].includes(chosen) - a[3].includes(chosen));
      return [head, ...ordered.map(([text, distance, detail, policies]) => {
        const state = index.states[policies[0]][at].charCodeAt(task) - 48;
        const outcome = outcomeOf(state);
        const names = policies.map((policy) => index.policies[policy]).join(", ");
        const good = outcome === PASSED;
        const build = (part) => {
          const parts = difference(reference.slice(0, cutAt(reference, CUT)), part);
          return parts.length ? parts : ["(nothing)"];
        };
        return element("div", { className: "filling" },
          element("p", { className: "said" },
            element("span", { className: good ? "good" : "bad", textContent: `${good ? "✓" : outcome === NOT_JUDGED ? "?" : "✗"} ${wordOf(state)}` }),
            element("span", { textContent: (state & 1) === 1 ? "exact match" : `edit distance ${distance.toLocaleString("en")}` }),
            text === "" ? element("span", { textContent: "empty" }) : null,
            element("span", { className: "quiet", textContent: names }),
            limit !== false && policies.includes(0)
              ? element("span", { className: "quiet", textContent: limit === null ? "token limit met: unknown" : "met the token limit" })
              : null,
            detail === "" ? null : element("span", { className: "detail" },
              ...visible(detail.slice(0, cutAt(detail, CUT))),
              ...(detail.length > CUT ? [` … ${(detail.length - CUT).toLocaleString("en")} characters more`] : []))),
          ...shown(text, `Answer of ${who.name}, ${names}`, build));
      })];
    };

    // By place, not by row: rows are made anew while a finger is still on them.
    rows.addEventListener("click", (event) => {
      select(Math.floor((event.clientY - rows.getBoundingClientRect().top) / ROW));
    });
    list.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
    new ResizeObserver(() => requestAnimationFrame(draw)).observe(list);
    list.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
      const steps = {
        ArrowDown: selected + 1, ArrowUp: selected - 1, PageDown: selected + page,
        PageUp: selected - page, Home: 0, End: found.length - 1,
      };
      if (event.key in steps) select(steps[event.key]);
      else if (event.key === "Enter" && selected >= 0) article.focus();
      else return;
      event.preventDefault();
    });
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filter));
    form.hidden = false;
    panes.hidden = false;
    filter();
    if (found.length) select(0);
  };

  decode("index").then(start).catch((error) => {
    count.textContent = `The tasks cannot be shown: ${error.message}. A browser of 2023 or newer is needed.`;
  });
})();
