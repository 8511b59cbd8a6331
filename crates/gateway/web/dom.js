// What the parts of the page share: finding elements, lists that stay short, times and sizes.

export const $ = (id) => document.getElementById(id);

/** A copy of the one element in a template. */
export function fromTemplate(id) {
  return $(id).content.cloneNode(true).firstElementChild;
}

/** Appends, drops the oldest, and keeps the end in view of who was looking at it. */
export function appendBounded(list, item, max) {
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  while (list.children.length > max) list.firstElementChild.remove();
  if (isAtEnd) scrollToEnd(list);
}

export function scrollToEnd(list) {
  list.scrollTop = list.scrollHeight;
}

export function showTime(element, at, withMillis) {
  const date = new Date(at);
  element.dateTime = date.toISOString();
  const millis = withMillis ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : "";
  element.textContent = date.toLocaleTimeString([], { hour12: false }) + millis;
}

export function sizeText(bytes) {
  return bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KiB`;
}
