/* Keeps the parts of a page fresh that are marked with data-live; every second while one is marked with data-soon. Without this script a page is as it was loaded. */
(function () {
  "use strict";
  var SECONDS = 5, busy = false, paused = false, button = null;

  function parts(root) { return root.querySelectorAll("[data-live][id]"); }

  function say(text, state) {
    if (button) { button.textContent = text; button.dataset.state = state; }
  }

  /* What a reader has opened, and where the focus is, stays. */
  function put(old, fresh) {
    if (old.innerHTML === fresh.innerHTML) return;
    var field = document.activeElement;
    if (old.contains(field) && /^(INPUT|TEXTAREA|SELECT)$/.test(field.tagName)) return;
    if (old.querySelector("form:target, form[data-touched], dialog[open]")) return;
    var open = [].map.call(old.querySelectorAll("details[open][id]"), function (one) { return one.id; });
    var scrolled = [].map.call(old.querySelectorAll(".scroll[id]"), function (one) { return [one.id, one.scrollLeft, one.scrollTop]; });
    var key = old.contains(field) && (field.id || field.getAttribute("href"));
    old.replaceChildren.apply(old, [].slice.call(document.importNode(fresh, true).childNodes));
    open.forEach(function (id) { var one = document.getElementById(id); if (one) one.open = true; });
    scrolled.forEach(function (was) { var one = document.getElementById(was[0]); if (one) { one.scrollLeft = was[1]; one.scrollTop = was[2]; } });
    if (!key) return;
    [].some.call(old.querySelectorAll("a, button, [id]"), function (one) {
      if (one.id !== key && one.getAttribute("href") !== key) return false;
      one.focus({ preventScroll: true });
      return true;
    });
  }

  function here() {
    var address = new URL(location.href);
    address.searchParams.delete("news");
    return address.href;
  }

  function turn() {
    if (busy || paused || document.hidden) return;
    busy = true;
    fetch(here(), { credentials: "same-origin", headers: { "X-Poll": "1" } }).then(function (answer) {
      return answer.text().then(function (text) {
        var page = new DOMParser().parseFromString(text, "text/html");
        if (document.querySelector("[data-away]")) {
          if (answer.ok) location.replace(here());
        } else if (!answer.ok && !parts(page).length) {
          var told = page.querySelector(".fault h1");
          say(told ? told.textContent : "No answer (" + answer.status + ")", "bad");
        } else {
          parts(page).forEach(function (fresh) { var old = document.getElementById(fresh.id); if (old) put(old, fresh); });
          say("Live", "live");
        }
      });
    }).catch(function () { say("No connection", "bad"); }).then(function () { busy = false; });
  }

  /* The button that stops the refreshing. */
  function add(place) {
    button = document.createElement("button");
    button.type = "button";
    button.className = "live";
    button.title = "Stop or resume the refreshing of this page";
    button.addEventListener("click", function () {
      paused = !paused;
      say(paused ? "Stopped" : "Live", paused ? "off" : "live");
      if (!paused) turn();
    });
    place.appendChild(button);
    say("Live", "live");
  }

  document.addEventListener("input", function (event) {
    var form = event.target.form;
    if (form) form.dataset.touched = "";
  });

  if (parts(document).length || document.querySelector("[data-away]")) {
    var place = document.querySelector("[data-live-button], .head, .fault");
    if (place && parts(document).length) add(document.querySelector("[data-live-button]") || place);
    var passed = 0;
    setInterval(function () {
      passed += 1;
      if (passed % SECONDS === 0 || document.querySelector("[data-soon]")) turn();
    }, 1000);
    document.addEventListener("visibilitychange", turn);
  }
})();
