/** So many are remembered beside each other; one that comes later than so many others is taken for an old one. */
const REMEMBERED = 2000

/**
 * The hand-offs of one lock that this process has heard of, by their tokens. Each may be told twice, by a notification and a
 * poll, and of those that are shared a later one may be told first.
 */
export class Told {
  /** All up to this one have been told, or are over. */
  #all = 0n
  #some = new Set<bigint>()

  has(token: bigint): boolean {
    return token <= this.#all || this.#some.has(token)
  }

  /** `alone`: it is an exclusive hold, so that all before it are over. */
  add(token: bigint, alone: boolean): void {
    if (alone) {
      this.#upTo(token)
      return
    }
    this.#some.add(token)
    if (this.#some.size > REMEMBERED) {
      const sorted = [...this.#some].sort((a, b) => (a < b ? -1 : 1))
      this.#upTo(sorted[REMEMBERED >> 1]!)
    }
  }

  #upTo(token: bigint): void {
    if (token > this.#all) this.#all = token
    for (const each of this.#some) if (each <= this.#all) this.#some.delete(each)
  }
}
