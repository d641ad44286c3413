// Folded tables are on paper too, and the tree of seconds down to operators.
const SHOWN = "section > details, .tree > details > details, .tree > details > details > details";
const folded = [];
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll(SHOWN)) {
    if (one.open) continue;
    folded.push(one);
    one.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const one of folded.splice(0)) one.open = false;
});
