// Ctrl+Up and Ctrl+Down (Cmd on a Mac) in a prompt: the weight of what is selected, or of what the cursor is in, by 0.1.
(() => {
  const STEP = 0.1, PLAIN = 1.1, MOST = 10; // PLAIN: what (word) means
  const CLOSING = { "(": ")", "（": "）" };
  const SIGN_AND_NUMBER = /[:：]\s*([0-9０-９]*[.．٫]?[0-9０-９]+)\s*$/;
  // Chinese and Japanese have no spaces: what stands between punctuation is a word. Others end at a space, too.
  const WORDS = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}ー々〇]+|(?:(?![\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}ー々〇])[\p{L}\p{M}\p{N}_'’-])+/gu;

  // Pairs of round brackets, inner ones first, as offsets of their ends; brackets behind a backslash are text.
  const pairs = (text) => {
    const found = [], open = [];
    for (let at = 0; at < text.length; at++) {
      if (text[at] === "\\") at++;
      else if (text[at] in CLOSING) open.push(at);
      else if ((text[at] === ")" || text[at] === "）") && open.length) found.push({ start: open.pop(), end: at + 1 });
    }
    return found;
  };

  // What is inside a pair, and its weight.
  const read = (text, pair) => {
    const inside = text.slice(pair.start + 1, pair.end - 1), number = SIGN_AND_NUMBER.exec(inside);
    const end = pair.start + 1 + (number ? number.index : inside.length);
    return { ...pair, inside: { start: pair.start + 1, end }, weight: number ? Number(number[1].normalize("NFKC").replace("٫", ".")) : PLAIN };
  };

  // The brackets to change, or the bare text to put into brackets, whose weight is 1; null where there is nothing to weight.
  const target = (text, start, end) => {
    const brackets = pairs(text).map((pair) => read(text, pair));
    if ([...text.matchAll(/<[^<>]*>/g)].some((tag) => tag.index < end && start < tag.index + tag[0].length)) return null; // <lora:ink:0.8>
    if (start === end) {
      const around = brackets.find((each) => each.start < start && start < each.end);
      if (around) return around;
      const word = [...text.matchAll(WORDS)].find((each) => each.index <= start && start <= each.index + each[0].length);
      if (!word) return null;
      start = word.index;
      end = start + word[0].length;
    } else {
      while (start < end && /\s/.test(text[start])) start++;
      while (start < end && /\s/.test(text[end - 1])) end--;
      if (start === end) return null;
      const same = (place) => place.start === start && place.end === end;
      const exact = brackets.find((each) => same(each) || same(each.inside));
      if (exact) return exact;
      const isCut = brackets.some(({ start: from, end: to }) => (from >= start && from < end) !== (to > start && to <= end));
      if (isCut) return null;
    }
    return { start, end, inside: { start, end }, weight: 1 };
  };

  // What replaces text.slice(start, end), and how much of it, from its start, is selected then.
  const reweighted = (text, selectionStart, selectionEnd, step) => {
    const { start, end, inside, weight } = target(text, selectionStart, selectionEnd) ?? {};
    if (start === undefined) return null;
    const words = text.slice(inside.start, inside.end), isNew = inside.start === start;
    const now = Math.min(MOST, Math.max(0, Math.round((weight + step) * 100) / 100));
    if (now === 1) return { start, end, replacement: words, selected: [0, words.length] };
    const opening = isNew ? "(" : text[start], closing = isNew ? ")" : text[end - 1];
    return { start, end, replacement: `${opening}${words}:${now}${closing}`, selected: [1, 1 + words.length] };
  };

  document.addEventListener("keydown", (event) => {
    const box = event.target, up = event.key === "ArrowUp";
    if (!(up || event.key === "ArrowDown") || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || event.isComposing) return;
    if (!box.matches?.(".weights textarea, .weights input") || box.readOnly || box.disabled) return;
    event.preventDefault();
    const change = reweighted(box.value, box.selectionStart, box.selectionEnd, up ? STEP : -STEP);
    if (!change) return;
    box.setSelectionRange(change.start, change.end);
    // the old command, as it alone is undone by Ctrl+Z; it tells Gradio by an input event
    if (!document.execCommand("insertText", false, change.replacement)) {
      box.setRangeText(change.replacement);
      box.dispatchEvent(new InputEvent("input", { bubbles: true }));
    }
    box.setSelectionRange(...change.selected.map((offset) => change.start + offset));
  });
})();
