import type { Store } from '../protocol/store.ts'

/** How often this process looks whether its leaders are asked to resign, all of them in one statement. */
const LOOK_MS = 500
/** What was asked of a leader is of no use after it. */
const KEPT_MS = 60_000

interface Led {
  readonly name: string
  readonly token: bigint
  onAsked(): void
}

export interface ResignationsContext {
  readonly store: Pick<Store<never>, 'readMarks' | 'writeMark'>
  background(during: string, work: Promise<unknown>): void
}

/** Tells leaders that they are asked to resign, from whichever process. Sends nothing while none of them leads. */
export class Resignations {
  readonly #context: ResignationsContext
  readonly #led = new Set<Led>()
  #timer: NodeJS.Timeout | undefined
  #looking = false
  #closed = false

  constructor(context: ResignationsContext) {
    this.#context = context
  }

  /** Asks the leader with that token. */
  ask(name: string, token: bigint): Promise<void> {
    return this.#context.store.writeMark({ kind: 'resign', name, part: '', value: null, token, keepMs: KEPT_MS }, true)
  }

  /** Calls `onAsked` once if the leader with that token is asked, until what this answers is called. */
  heed(name: string, token: bigint, onAsked: () => void): () => void {
    const led = { name, token, onAsked }
    this.#led.add(led)
    if (this.#led.size === 1) this.#lookIn(LOOK_MS)
    return () => {
      this.#led.delete(led)
      if (this.#led.size === 0) clearTimeout(this.#timer)
    }
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#led.clear()
  }

  #lookIn(ms: number): void {
    clearTimeout(this.#timer)
    if (this.#closed || this.#looking || this.#led.size === 0) return
    this.#timer = setTimeout(() => this.#context.background('looking for resignations', this.#look()), ms).unref()
  }

  async #look(): Promise<void> {
    this.#looking = true
    try {
      const asked = [...this.#led]
      const { marks } = await this.#context.store.readMarks('resign', [...new Set(asked.map(({ name }) => name))], true)
      const tokens = new Map(marks.map(({ name, token }) => [name, token]))
      for (const led of asked) {
        if (tokens.get(led.name) === led.token && this.#led.delete(led)) led.onAsked()
      }
    } finally {
      this.#looking = false
      this.#lookIn(LOOK_MS)
    }
  }
}
