import { LockError } from '../../base/errors.ts'
import type { Listening } from '../../protocol/store.ts'
import { openPinged } from '../sessions.ts'

/** Also how often clocks are compared, so that between two comparisons they drift apart by little. */
const PING_MS = 5000
/** A first waiter does not wait longer than this for the session to be opened: until it is, processes poll. */
const PATIENCE_MS = 250
const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 5000

/** The one session per process that is told of hand-offs. Opened for the first waiter, and again whenever it is lost. */
export class Listener {
  readonly #open: ((onLost: (cause: unknown) => void) => Promise<Listening>) | undefined
  readonly #onOpen: () => void
  #opening: Promise<void> | undefined
  #session: Listening | undefined
  #pauseMs = FIRST_PAUSE_MS
  #timer: NodeJS.Timeout | undefined
  #closed = false

  /** `open` is undefined where nothing can be listened to. `onOpen` is called after each gap in which hand-offs may have been missed. */
  constructor(open: ((onLost: (cause: unknown) => void) => Promise<Listening>) | undefined, onOpen: () => void) {
    this.#open = open
    this.#onOpen = onOpen
  }

  get listening(): boolean {
    return this.#session !== undefined
  }

  get provesLife(): boolean {
    return this.#session?.provesLife === true
  }

  /** Resolves when there is a session, or soon if it cannot be opened. */
  async ready(): Promise<void> {
    if (this.#open === undefined || this.listening || this.#closed || this.#timer !== undefined) return
    this.#opening ??= this.#connect()
    let patience: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      patience = setTimeout(resolve, PATIENCE_MS)
    })
    await Promise.race([this.#opening, late])
    clearTimeout(patience)
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    await this.#opening
    const session = this.#session
    this.#session = undefined
    await session?.close()
  }

  async #connect(): Promise<void> {
    let lost = false
    try {
      const session = await openPinged(this.#open!, PING_MS, () => {
        lost = true
        this.#session = undefined
        this.#again()
      })
      if (lost) return
      if (this.#closed) return await session.close()
      this.#session = session
      this.#pauseMs = FIRST_PAUSE_MS
      this.#onOpen()
    } catch (error) {
      // A hint that is missing is no failure: waiters poll, and what is wrong with the database they will see.
      if (error instanceof LockError && error.code === 'UNSUPPORTED') this.#closed = true
      else if (!lost) this.#again()
    } finally {
      this.#opening = undefined
    }
  }

  #again(): void {
    if (this.#closed || this.#timer !== undefined) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#opening ??= this.#connect()
    }, this.#pauseMs).unref()
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, this.#pauseMs * 2)
  }
}
