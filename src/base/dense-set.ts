/** What a dense set notes in its items: where they are, or nothing while they are in none. */
export interface DenseSetItem {
  place?: number | undefined
}

/**
 * A set whose items know their place in it, in no order, for items that come and go quickly, and are in one such set at a
 * time. When a `Set` has made room for more, it leaves its former table behind with a reference to the next one; a former table
 * that the collector takes for long-lived thus keeps all that follow it, and what their items refer to. Processes in which
 * that happened spent half as much processor time again (docs/decisions.md).
 */
export class DenseSet<Item extends DenseSetItem> implements Iterable<Item> {
  readonly #items: Item[] = []

  get size(): number {
    return this.#items.length
  }

  add(item: Item): void {
    if (item.place === undefined) item.place = this.#items.push(item) - 1
  }

  /** Whether it was one of them. */
  delete(item: Item): boolean {
    const { place } = item
    if (place === undefined) return false
    item.place = undefined
    const last = this.#items.pop()!
    if (last === item) return true
    this.#items[place] = last
    last.place = place
    return true
  }

  clear(): void {
    for (const item of this.#items) item.place = undefined
    this.#items.length = 0
  }

  /** Those of now: they may leave meanwhile. */
  [Symbol.iterator](): Iterator<Item> {
    return this.#items.slice()[Symbol.iterator]()
  }
}
