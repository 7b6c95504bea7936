import { LockTimeoutError } from '../base/errors.ts'
import type { LockView, Store } from '../protocol/store.ts'
import { type Call, TIME_OUT } from './calls.ts'

/** How often this process looks at the locks that it watches, all of them in one statement. */
const WATCH_MS = 200
/** After a look that failed. */
const FAILED_WATCH_MS = 1000

type Watcher = (view: LockView | undefined) => void

export interface WatchesContext {
  readonly store: Pick<Store<never>, 'poll'>
  background(during: string, work: Promise<unknown>): void
}

/** Looks at locks for those who want to know who holds them, and do not wait to hold them. Sends nothing while nobody does. */
export class Watches {
  readonly #context: WatchesContext
  readonly #watchers = new Map<string, Set<Watcher>>()
  #timer: NodeJS.Timeout | undefined
  #looking = false
  #lookAgain = false
  #closed = false

  constructor(context: WatchesContext) {
    this.#context = context
  }

  /** Calls `watcher` with what is seen at each look; undefined is a lock that nobody has ever held. Until what this answers is called. */
  watch(name: string, watcher: Watcher): () => void {
    const watchers = this.#watchers.get(name) ?? new Set()
    this.#watchers.set(name, watchers.add(watcher))
    this.lookNow()
    return () => {
      watchers.delete(watcher)
      if (watchers.size === 0 && this.#watchers.get(name) === watchers) this.#watchers.delete(name)
      if (this.#watchers.size === 0) clearTimeout(this.#timer)
    }
  }

  /** Resolves when nobody holds the lock. */
  async untilFree(call: Call, name: string, waitMs: number): Promise<void> {
    const started = performance.now()
    let stop: (() => void) | undefined
    let holder: string | undefined
    const free = new Promise<void>((resolve) => {
      stop = this.watch(name, (view) => {
        holder = view?.holders[0]?.label
        if (holder === undefined) resolve()
      })
    })
    try {
      const answer = await call.race(free, waitMs)
      if (answer === TIME_OUT) throw new LockTimeoutError(name, performance.now() - started, holder)
    } finally {
      stop?.()
    }
  }

  /** Something has happened to a lock of that name here. */
  changed(name: string): void {
    if (this.#watchers.has(name)) this.lookNow()
  }

  lookNow(): void {
    if (this.#looking) this.#lookAgain = true
    else this.#lookIn(0)
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#watchers.clear()
  }

  #lookIn(ms: number): void {
    clearTimeout(this.#timer)
    if (this.#closed || this.#watchers.size === 0) return
    this.#timer = setTimeout(() => this.#context.background('looking at locks', this.#look()), ms)
  }

  async #look(): Promise<void> {
    this.#looking = true
    this.#lookAgain = false
    let againMs = FAILED_WATCH_MS
    try {
      const names = [...this.#watchers.keys()]
      const views = new Map((await this.#context.store.poll(names)).map((view) => [view.name, view]))
      // Those who came meanwhile are asked for at the next look.
      for (const name of names) for (const watcher of this.#watchers.get(name) ?? []) watcher(views.get(name))
      againMs = WATCH_MS
    } finally {
      this.#looking = false
      this.#lookIn(this.#lookAgain ? 0 : againMs)
    }
  }
}
