import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { extname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { LockError } from '../../index.ts'
import type { Order, Protection, Report } from './worker.ts'

/** How long a lease lasts without a renewal. */
const TTL_MS = 1000
/** How long a worker stays stopped: its lease runs out, and others have time to write under the next one. */
const STOPPED_MS = TTL_MS + 600
/** What a round of a kill and a stop takes, about. */
const ROUND_MS = STOPPED_MS + 500
/** Enough to wait for a lock whose holder was killed, and to make one more transfer. */
const FINISH_MS = 15_000

export interface LoadOptions {
  readonly databaseUrl: string
  readonly protection: Protection
  readonly workers: number
  readonly seconds: number
  /** Ends everything at once. */
  readonly signal: AbortSignal
}

/** What has happened so far; changes while the load runs. */
export interface Load {
  readonly acknowledged: Set<string>
  readonly acquireMs: number[]
  rejected: number
  takeovers: number
  kills: number
  stops: number
}

export function newLoad(): Load {
  return { acknowledged: new Set(), acquireMs: [], rejected: 0, takeovers: 0, kills: 0, stops: 0 }
}

/**
 * Runs workers for some seconds. Again and again one of them is killed and replaced while another is stopped, between its
 * reads and its transaction, for longer than its lease lasts.
 */
export async function runLoad(options: LoadOptions, load: Load): Promise<void> {
  const crew = new Crew(options, load)
  try {
    await Promise.all(Array.from({ length: options.workers }, () => crew.hire()))
    const end = performance.now() + options.seconds * 1000
    do {
      await crew.rest(200 * Math.random())
      const [one, another] = crew.pickTwo()
      await Promise.all([crew.replace(one), crew.stop(another)])
    } while (performance.now() + ROUND_MS < end)
    await crew.rest(end - performance.now())
    await crew.finish()
  } finally {
    await crew.killAll()
  }
}

/** The worker processes. */
class Crew {
  readonly #options: LoadOptions
  readonly #load: Load
  readonly #failure = new AbortController()
  /** Ends every wait. */
  readonly #signal: AbortSignal
  readonly #workers = new Set<ChildProcess>()
  #hired = 0

  constructor(options: LoadOptions, load: Load) {
    this.#options = options
    this.#load = load
    this.#signal = AbortSignal.any([options.signal, this.#failure.signal])
    process.on('exit', this.#kill)
  }

  /** Starts a worker; resolves when it is at work. */
  async hire(): Promise<void> {
    const number = ++this.#hired
    const worker = fork(fileURLToPath(new URL(`worker${extname(import.meta.url)}`, import.meta.url)))
    this.#workers.add(worker)
    worker.on('message', (report: Report) => this.#record(worker, report))
    worker.on('exit', (code) => {
      // One that is killed on purpose is not among them any more.
      if (this.#workers.delete(worker) && code !== 0) {
        this.#failure.abort(new LockError('DATABASE', `worker ${number} of the demo failed; its error stands above`))
      }
    })
    const { databaseUrl, protection } = this.#options
    order(worker, { type: 'start', task: { databaseUrl, protection, worker: number, ttlMs: TTL_MS } })
    await this.#unlessEnded(once(worker, 'ready', { signal: this.#signal }))
  }

  async rest(ms: number): Promise<void> {
    await this.#unlessEnded(sleep(Math.max(0, ms), undefined, { signal: this.#signal }))
  }

  pickTwo(): [ChildProcess, ChildProcess] {
    const workers = [...this.#workers]
    const [one] = workers.splice(Math.floor(Math.random() * workers.length), 1)
    return [one!, workers[Math.floor(Math.random() * workers.length)]!]
  }

  /** Kills a worker wherever it happens to be, and hires another. */
  async replace(worker: ChildProcess): Promise<void> {
    this.#workers.delete(worker)
    worker.kill('SIGKILL')
    this.#load.kills++
    await this.hire()
  }

  /** Stops a worker between its reads and its transaction, and lets it go on when its lease has run out. */
  async stop(worker: ChildProcess): Promise<void> {
    order(worker, { type: 'halt' })
    await this.#unlessEnded(once(worker, 'halted', { signal: this.#signal }))
    worker.kill('SIGSTOP')
    this.#load.stops++
    this.#tellAll({ type: 'stopped', pid: worker.pid! })
    await this.rest(STOPPED_MS)
    this.#tellAll({ type: 'stopped', pid: null })
    order(worker, { type: 'proceed' })
    worker.kill('SIGCONT')
  }

  /** Lets everybody end what they are at. */
  async finish(): Promise<void> {
    const exits = [...this.#workers].map((worker) => once(worker, 'exit', { signal: this.#signal }))
    this.#tellAll({ type: 'finish' })
    const hang = sleep(FINISH_MS, 'hang', { ref: false })
    const end = await this.#unlessEnded(Promise.race([Promise.all(exits), hang]))
    if (end === 'hang') throw new Error(`a worker of the demo has not finished for ${FINISH_MS} ms`)
    this.#signal.throwIfAborted()
  }

  async killAll(): Promise<void> {
    const exits = [...this.#workers].map((worker) => once(worker, 'exit'))
    this.#kill()
    await Promise.all(exits)
    process.off('exit', this.#kill)
  }

  readonly #kill = () => {
    for (const worker of this.#workers) {
      this.#workers.delete(worker)
      worker.kill('SIGKILL')
    }
  }

  #tellAll(message: Order): void {
    for (const worker of this.#workers) order(worker, message)
  }

  #record(worker: ChildProcess, report: Report): void {
    const load = this.#load
    if (report.type === 'acknowledged') load.acknowledged.add(report.transfer)
    else if (report.type === 'acquired') load.acquireMs.push(report.waitedMs)
    else if (report.type === 'rejected') load.rejected++
    else if (report.type === 'takeover') load.takeovers++
    else worker.emit(report.type)
  }

  /** Rejects with what ended a wait, which says more than that it was ended. */
  async #unlessEnded<T>(waiting: Promise<T>): Promise<T> {
    try {
      return await waiting
    } catch (error) {
      this.#signal.throwIfAborted()
      throw error
    }
  }
}

function order(worker: ChildProcess, message: Order): void {
  // That it is gone is told by its exit.
  if (worker.connected) worker.send(message, () => undefined)
}
