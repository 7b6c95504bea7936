import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { compiled } from '../compiled.ts'

export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

const main = compiled(new URL('../../src/cli/main.ts', import.meta.url))

/** Runs the command `rowlock` in a process of its own. */
export async function rowlock(args: readonly string[], options: { cwd?: string } = {}): Promise<Outcome> {
  const { DATABASE_URL: _, ...env } = process.env
  const child = spawn(process.execPath, [main, ...args], {
    ...options,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code, stdout, stderr }
}
