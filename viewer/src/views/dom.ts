// SPDX-License-Identifier: MIT
// Elements from code. Text goes in as text nodes and nothing here reads HTML: names come from strangers' programs.

type Child = Node | string | null | undefined | false;
type Handlers = { [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };

export interface Attributes {
	class?: string;
	on?: Handlers;
	[name: string]: string | number | boolean | Handlers | undefined;
}

/** An element; `true` sets an empty attribute, `false` and undefined none. */
export function h<K extends keyof HTMLElementTagNameMap>(
	tag: K,
	attributes: Attributes = {},
	...children: Child[]
): HTMLElementTagNameMap[K] {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (name === "on") {
			for (const [event, handler] of Object.entries(value as Handlers))
				element.addEventListener(event, handler as EventListener);
		} else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
	}
	append(element, children);
	return element;
}

export function append(parent: Node, children: readonly Child[]): void {
	for (const child of children) {
		if (child === null || child === undefined || child === false) continue;
		parent.appendChild(typeof child === "string" ? document.createTextNode(child) : child);
	}
}

/** Replaces an element's children. */
export function fill(parent: Element, ...children: Child[]): void {
	parent.replaceChildren();
	append(parent, children);
}

/** Sets text only when it changed: live pages must not lose the reader's marked text. */
export function setText(element: Element, text: string): void {
	if (element.textContent !== text) element.textContent = text;
}

export function setAttr(element: Element, name: string, value: string | null): void {
	if (value === null) element.removeAttribute(name);
	else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function show(element: HTMLElement, visible: boolean): void {
	if (element.hidden === visible) element.hidden = !visible;
}
