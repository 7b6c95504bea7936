import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { vi } from 'vitest'
import { compiled } from '../compiled.ts'
import type { TestEngine } from '../engines.ts'
import type { Commands, Reply, WorkerSettings } from './worker.ts'

/** Another process that uses the locks of one database. */
export interface Worker {
  readonly pid: number
  /** Runs a command of worker.ts there. Errors come back with their code. */
  call<Name extends keyof Commands>(
    command: Name,
    ...args: Parameters<Commands[Name]>
  ): Promise<Awaited<ReturnType<Commands[Name]>>>
  /** SIGSTOP: the process stands still until it is told to go on. */
  pause(): Promise<void>
  /** Resolves when the process has stopped itself. */
  untilPaused(): Promise<void>
  resume(): void
  /** SIGKILL, and gone. */
  kill(): Promise<void>
}

export interface WorkerOptions {
  readonly options?: WorkerSettings['options']
  readonly clockError?: number
  readonly env?: NodeJS.ProcessEnv
}

/** A busy machine takes its time to start a process. */
const PATIENCE_MS = 60_000
const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** What a worker threw. */
class WorkerError extends Error {
  readonly code: string | undefined

  constructor(name: string, message: string, code: string | undefined) {
    super(message)
    this.name = name
    this.code = code
  }
}

export async function startWorker(
  engine: Pick<TestEngine, 'connector'>,
  url: string,
  { options = {}, clockError = 0, env = {} }: WorkerOptions = {},
): Promise<Worker> {
  const settings: WorkerSettings = { connector: engine.connector, url, options, clockError }
  const child = fork(compiled(new URL('worker.ts', import.meta.url)), [JSON.stringify(settings)], {
    execArgv: [],
    // Carries bigints.
    serialization: 'advanced',
    env: { ...process.env, ...env },
  })
  track(child)
  const calls = new Map<number, { resolve(value: unknown): void; reject(reason: unknown): void }>()
  child.on('message', (message: Reply | 'ready') => {
    if (message === 'ready') return
    const call = calls.get(message.id)
    calls.delete(message.id)
    if ('value' in message) call?.resolve(message.value)
    else call?.reject(new WorkerError(message.error.name, message.error.message, message.error.code))
  })
  child.on('exit', (code, signal) => {
    for (const call of calls.values()) call.reject(new Error(`the worker ended with ${signal ?? code}`))
    calls.clear()
  })
  await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(([code]) =>
      Promise.reject(new Error(`the worker ended with ${code} before it was ready`)),
    ),
  ])

  const pid = child.pid as number
  const untilPaused = () =>
    vi.waitUntil(async () => (await stateOf(pid)) === 'T', { timeout: PATIENCE_MS, interval: 10 })
  let lastId = 0
  return {
    pid,
    call: (command, ...args) =>
      new Promise((resolve, reject) => {
        const id = ++lastId
        calls.set(id, { resolve: resolve as (value: unknown) => void, reject })
        child.send({ id, command, args })
      }),
    async pause() {
      child.kill('SIGSTOP')
      await untilPaused()
    },
    async untilPaused() {
      await untilPaused()
    },
    resume: () => void child.kill('SIGCONT'),
    kill: () => kill(child),
  }
}

/** A script of this folder as a process of its own, which ends when it has nothing more to do. */
export interface Script {
  readonly pid: number
  /** Resolves when the script has printed this line; rejects if it ends before. */
  untilLine(line: string): Promise<void>
  /** How it ended: the exit code, or the signal. */
  readonly ended: Promise<number | NodeJS.Signals>
  /** All that it has written to stderr. */
  errors(): string
  signal(signal: NodeJS.Signals): void
}

export function startScript(file: string, ...args: string[]): Script {
  const path = compiled(new URL(file, import.meta.url))
  const child = spawn(process.execPath, [path, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  track(child)
  const lines = new Set<string>()
  createInterface(child.stdout).on('line', (line) => lines.add(line))
  let errors = ''
  child.stderr.on('data', (bytes) => {
    errors += bytes
  })
  let isOver = false
  const ended = once(child, 'close').then(([code, signal]) => {
    isOver = true
    return (signal ?? code) as number | NodeJS.Signals
  })
  return {
    pid: child.pid as number,
    async untilLine(line) {
      await vi.waitUntil(() => lines.has(line) || isOver, { timeout: PATIENCE_MS, interval: 10 })
      if (!lines.has(line)) throw new Error(`the script ended without saying ${line}: ${errors}`)
    },
    ended,
    errors: () => errors,
    signal: (signal) => void child.kill(signal),
  }
}

/** Ends all processes that tests of this file have started. */
export async function endProcesses(): Promise<void> {
  await Promise.all([...running].map(kill))
}

function track(child: ChildProcess): void {
  running.add(child)
  child.once('exit', () => running.delete(child))
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, 'exit')
  child.kill('SIGKILL')
  await exit
}

/** R for running, S for sleeping, T for stopped, ... */
async function stateOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')') + 2)[0]
}
