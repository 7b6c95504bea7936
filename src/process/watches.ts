import { LockTimeoutError } from '../base/errors.ts'
import type { LockView, Store } from '../protocol/store.ts'
import { type Call, TIME_OUT } from './calls.ts'
import { Poll } from './wake/poll.ts'

/** How often this process looks at the locks that it watches, all of them in one statement. */
const WATCH_MS = 200
/** After a look that failed. */
const FAILED_WATCH_MS = 1000

type Watcher = (view: LockView | undefined) => void

export interface WatchesContext {
  readonly store: Pick<Store<never>, 'poll'>
  background(during: string, work: Promise<unknown>): void
  /** Tells of locks to which something has happened in this process, until what it answers is called. */
  listen(changed: (name: string) => void): () => void
}

/** Looks at locks for those who want to know who holds them, and do not wait to hold them. Sends nothing while nobody does. */
export class Watches {
  readonly #context: WatchesContext
  readonly #watchers = new Map<string, Set<Watcher>>()
  readonly #poll = new Poll(() => this.#look(), 0)
  #closed = false
  #stopListening: (() => void) | undefined

  constructor(context: WatchesContext) {
    this.#context = context
  }

  /** Calls `watcher` with what is seen at each look; undefined is a lock that nobody has ever held. Until what this answers is called. */
  watch(name: string, watcher: Watcher): () => void {
    const watchers = this.#watchers.get(name) ?? new Set()
    this.#watchers.set(name, watchers.add(watcher))
    this.#stopListening ??= this.#context.listen((changed) => {
      if (this.#watchers.has(changed)) this.#lookNow()
    })
    this.#lookNow()
    return () => {
      watchers.delete(watcher)
      if (watchers.size === 0 && this.#watchers.get(name) === watchers) this.#watchers.delete(name)
      if (this.#watchers.size === 0) this.#rest()
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

  close(): void {
    this.#closed = true
    this.#watchers.clear()
    this.#rest()
  }

  #rest(): void {
    this.#poll.stop()
    this.#stopListening?.()
    this.#stopListening = undefined
  }

  #lookNow(): void {
    if (!this.#closed) this.#poll.by(performance.now())
  }

  async #look(): Promise<void> {
    const looking = this.#tellAll()
    this.#context.background('looking at locks', looking)
    const againMs = await looking.then(
      () => WATCH_MS,
      () => FAILED_WATCH_MS,
    )
    if (this.#watchers.size > 0) this.#poll.by(performance.now() + againMs)
  }

  async #tellAll(): Promise<void> {
    // Who comes while this is asked must not hear of what was before.
    const asked = [...this.#watchers].map(([name, watchers]) => ({ name, watchers: [...watchers] }))
    const views = await this.#context.store.poll(asked.map(({ name }) => name))
    const byName = new Map(views.map((view) => [view.name, view]))
    for (const { name, watchers } of asked) {
      for (const watcher of watchers) if (this.#watchers.get(name)?.has(watcher)) watcher(byName.get(name))
    }
  }
}
