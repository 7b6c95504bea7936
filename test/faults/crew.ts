import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { compiled } from '../compiled.ts'
import { startProxy, type TcpProxy } from '../tcp-proxy.ts'
import type { Register } from './register.ts'
import { withSessionName } from './sessions.ts'
import type { Target } from './target.ts'
import type { Order, Report, WorkerSettings } from './worker.ts'

export interface CrewOptions {
  readonly target: Target
  readonly places: number
  /** For histories, and for what workers print. */
  readonly directory: string
  readonly register: Register
  readonly settings: Omit<WorkerSettings, 'number' | 'dialect' | 'url' | 'historyFile'>
}

interface Member {
  readonly number: number
  readonly child: ChildProcess
}

/** A machine under load takes its time to start a process. */
const START_MS = 30_000

/** The worker processes: each has a place, in which another follows when it is killed. */
export class Crew {
  readonly #options: CrewOptions
  readonly #proxies = new Map<number, TcpProxy>()
  readonly #members = new Map<number, Member>()
  readonly #hired: { number: number; historyFile: string }[] = []
  /** What no worker should have done. */
  readonly problems: string[] = []

  private constructor(options: CrewOptions) {
    this.#options = options
    process.on('exit', this.#killAll)
  }

  static async start(options: CrewOptions): Promise<Crew> {
    const crew = new Crew(options)
    const places = [...Array(options.places).keys()]
    try {
      for (const place of places.filter((each) => crew.isProxied(each))) {
        crew.#proxies.set(place, await startProxy(crew.#urlOf(place)))
      }
      await Promise.all(places.map((place) => crew.#hire(place)))
      return crew
    } catch (error) {
      await crew.close()
      throw error
    }
  }

  /** Every other worker reaches the server through a proxy. All of them would make that the narrow pass of the whole run. */
  isProxied(place: number): boolean {
    return this.#options.target.dialect !== 'sqlite' && place % 2 === 1
  }

  proxy(place: number): TcpProxy {
    return this.#proxies.get(place)!
  }

  /** The number of the worker at a place. */
  numberAt(place: number): number {
    return this.#members.get(place)!.number
  }

  historyFiles(): string[] {
    return this.#hired.map(({ historyFile }) => historyFile)
  }

  signal(place: number, signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#members.get(place)!.child.kill(signal)
  }

  order(place: number, order: Order): void {
    // That it is gone is told by its exit.
    this.#members.get(place)!.child.send(order, () => undefined)
  }

  /** Answers how many were dropped. */
  async dropNotifications(place: number, milliseconds: number): Promise<number> {
    const dropped = this.#report(place, 'notifications dropped').then(({ count }) => count)
    // Of one that has failed meanwhile nothing is to be heard, but that it ended.
    const ended = once(this.#members.get(place)!.child, 'exit').then(() => 0)
    this.order(place, { type: 'drop notifications', milliseconds })
    return await Promise.race([dropped, ended])
  }

  /** Resolves when the worker has something to lose, or after `limitMs`. */
  async untilAtRisk(place: number, limitMs: number): Promise<void> {
    const isAtRisk = this.#report(place, 'at risk')
    this.order(place, { type: 'tell when at risk' })
    await Promise.race([isAtRisk, sleep(limitMs, undefined, { ref: false })])
  }

  /** Kills the worker at once, wherever it happens to be, and starts another. */
  async replace(place: number): Promise<void> {
    const { child } = this.#members.get(place)!
    this.#members.delete(place)
    const gone = once(child, 'exit')
    child.kill('SIGKILL')
    await gone
    await this.#hire(place)
  }

  /** Lets everybody end what they are at; after `limitMs` that is a problem. */
  async finish(limitMs: number): Promise<void> {
    const members = [...this.#members.values()]
    const exits = Promise.all(members.map(({ child }) => (hasEnded(child) ? undefined : once(child, 'exit'))))
    for (const place of this.#members.keys()) this.order(place, { type: 'finish' })
    await Promise.race([exits, sleep(limitMs, undefined, { ref: false })])
    for (const { number, child } of members) {
      if (!hasEnded(child)) this.problems.push(`worker ${number} did not come to its end within ${limitMs} ms`)
    }
  }

  async close(): Promise<void> {
    const exits = [...this.#members.values()].flatMap(({ child }) => (hasEnded(child) ? [] : [once(child, 'exit')]))
    this.#killAll()
    await Promise.all(exits)
    for (const proxy of this.#proxies.values()) await proxy.close()
    process.off('exit', this.#killAll)
  }

  async #hire(place: number): Promise<void> {
    const { target, directory, settings } = this.#options
    const number = this.#hired.length + 1
    const historyFile = join(directory, `worker-${number}.jsonl`)
    this.#hired.push({ number, historyFile })
    const url = this.#proxies.get(place)?.through(this.#urlOf(place)) ?? this.#urlOf(place)
    const task: WorkerSettings = { ...settings, number, dialect: target.dialect, url, historyFile }
    const output = openSync(join(directory, `worker-${number}.log`), 'a')
    const child = fork(compiled(new URL('worker.ts', import.meta.url)), [JSON.stringify(task)], {
      execArgv: [],
      stdio: ['ignore', output, output, 'ipc'],
    })
    closeSync(output)
    this.#members.set(place, { number, child })
    child.on('exit', (code, signal) => {
      if (code !== 0 && this.#members.get(place)?.child === child) {
        this.problems.push(`worker ${number} ended with ${signal ?? code}; see worker-${number}.log`)
      }
    })
    const ready = new Promise<void>((resolve) => {
      child.on('message', (report: Report) => {
        if (report.type === 'ready') resolve()
        else if (report.type === 'register') {
          this.#options.register.write(report.lock, report.token, report.operation)
        } else child.emit(report.type, report)
      })
    })
    const failed = Promise.race([once(child, 'exit'), sleep(START_MS, undefined, { ref: false })])
    await Promise.race([ready, failed.then(() => Promise.reject(new Error(`worker ${number} did not start`)))])
  }

  async #report<Type extends Report['type']>(place: number, type: Type): Promise<Report & { type: Type }> {
    const [report] = await once(this.#members.get(place)!.child, type)
    return report
  }

  #urlOf(place: number): string {
    const { urls, dialect } = this.#options.target
    return withSessionName(urls[place % urls.length]!, dialect, place)
  }

  readonly #killAll = () => {
    for (const { child } of this.#members.values()) child.kill('SIGKILL')
    this.#members.clear()
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}
