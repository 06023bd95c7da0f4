// Of a page that is served: it asks for the version of the store, and loads itself again when that has changed.
async function watch() {
  const shown = document.querySelector("meta[name=recscale-version]").content;
  const told = document.getElementById("recscale-live");
  const tell = words => told.textContent === words || (told.textContent = words); // what is set anew is read out anew
  try {
    const found = await (await fetch("/version", {cache: "no-store"})).text();
    if (found !== shown) return location.reload();
    tell("Live: this page follows the store.");
  } catch {
    tell("No longer served: this is how things stood last.");
  }
  setTimeout(watch, 2000);
}
setTimeout(watch, 2000);
