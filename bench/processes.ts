import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { compiled } from '../test/compiled.ts'
import type { Commands, Reply } from './worker.ts'

/** A process of its own that runs the commands of worker.ts. */
export interface BenchProcess {
  call<Name extends keyof Commands>(
    command: Name,
    ...values: Parameters<Commands[Name]>
  ): Promise<Awaited<ReturnType<Commands[Name]>>>
  /** SIGKILL, and gone. */
  kill(): Promise<void>
}

const running = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

export async function startProcess(): Promise<BenchProcess> {
  const child = fork(compiled(new URL('worker.ts', import.meta.url)), {
    execArgv: ['--expose-gc'],
    // Carries Maps and NaN.
    serialization: 'advanced',
  })
  running.add(child)
  child.once('exit', () => running.delete(child))
  const calls = new Map<number, { resolve(value: unknown): void; reject(reason: unknown): void }>()
  child.on('message', (reply: Reply | 'ready') => {
    if (reply === 'ready') return
    const call = calls.get(reply.id)
    calls.delete(reply.id)
    if ('error' in reply) call?.reject(new Error(reply.error))
    else call?.resolve(reply.value)
  })
  child.once('exit', (code, signal) => {
    for (const call of calls.values()) call.reject(new Error(`the process ended with ${signal ?? code}`))
    calls.clear()
  })
  await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(([code]) =>
      Promise.reject(new Error(`the process ended with ${code} before it was ready`)),
    ),
  ])

  let lastId = 0
  return {
    call: (command, ...values) =>
      new Promise((resolve, reject) => {
        const id = ++lastId
        calls.set(id, { resolve: resolve as (value: unknown) => void, reject })
        child.send({ id, command, values })
      }),
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const exit = once(child, 'exit')
      child.kill('SIGKILL')
      await exit
    },
  }
}

/** Several of them, for as long as `use` runs. */
export async function withProcesses<T>(count: number, use: (processes: BenchProcess[]) => Promise<T>): Promise<T> {
  const processes = await Promise.all(Array.from({ length: count }, startProcess))
  try {
    return await use(processes)
  } finally {
    await Promise.all(processes.map((process) => process.kill()))
  }
}
