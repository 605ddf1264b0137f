// Results of the search quote pages as text: without the marks of TeX there.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const toText = Search.htmlToText;
  const plain = (formula, tex) =>
    tex
      .replace(/\\(displaystyle|text|operatorname|mathbb|left|right|[bB]ig+[lr]?)\b|\\[,;! ]|[{}]/g, "")
      .replace(/\\l?dots/g, "…")
      .replace(/\\(\w+)/g, "$1");
  Search.htmlToText = (...page) => toText(...page).replace(/\\[([](.*?)\\[)\]]/gs, plain);
});
