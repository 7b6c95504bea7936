import { spawn } from 'node:child_process'

export type Command = {
  program: string
  args: string[]
  cwd?: string
  env?: NodeJS.ProcessEnv
  /** Milliseconds. */
  timeout?: number
}

/** Runs a command to its end without input. What it printed comes back, or is the message if it fails. */
export async function runCommand({ program, args, cwd, env, timeout }: Command): Promise<string> {
  return await new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd,
      env: { ...process.env, ...env },
      timeout,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    child.stdout.on('data', (chunk) => {
      output += chunk
    })
    child.stderr.on('data', (chunk) => {
      output += chunk
    })
    child.once('error', reject)
    child.once('close', (code, signal) => {
      if (code === 0) resolve(output)
      else reject(new Error(`${program} ended with ${signal ?? code}\n${lastLines(output)}`))
    })
  })
}

export async function succeeds(command: Command): Promise<boolean> {
  return await runCommand(command).then(
    () => true,
    () => false,
  )
}

export function lastLines(text: string): string {
  return text.trimEnd().split('\n').slice(-40).join('\n')
}
