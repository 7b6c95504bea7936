import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, rmSync } from 'node:fs'
import { chmod, chown, mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { untilAnswering } from './answering.ts'
import { type Command, lastLines, runCommand, succeeds } from './command.ts'
import { findProgram } from './debian.ts'
import type { RunningServer, ServerKind } from './server.ts'

/** Where one server lives. All of it is removed when the server stops. */
export type Place = {
  /** A directory that belongs to the OS user of the server, for sockets and the like. */
  home: string
  /** The data directory, which `initialise` makes. */
  data: string
  /** The recipe's programs, readable for the OS user of the server. */
  programs: string
}

export type Recipe = {
  kind: ServerKind
  /** The directory that holds the server's programs. */
  programs: string
  initialise(place: Place): Command
  serve(place: Place, port: number): Command
  /** Makes the server stop in good order without waiting for its clients. */
  stopSignal: 'SIGINT' | 'SIGTERM'
  url(port: number): string
}

/** Servers refuse to run as root, so root runs them as nobody. */
const nobody = process.getuid?.() === 0 ? 65534 : null

/** Starts a server from binaries, with a fresh data directory and a port of its own. `env` is added to its environment. */
export async function startPrivateServer(recipe: Recipe, env: NodeJS.ProcessEnv = {}): Promise<RunningServer> {
  const home = await makeHome(recipe.kind.name)
  const logFile = join(home, 'server.log')
  let server: ChildProcess | undefined
  const stop = async () => {
    if (server !== undefined) await end(server, recipe.stopSignal)
    await rm(home, { recursive: true, force: true, maxRetries: 3 })
    forget()
  }
  const forget = atExit(() => {
    server?.kill('SIGKILL')
    rmSync(home, { recursive: true, force: true, maxRetries: 5 })
  })
  try {
    const programs = await readableForServer(recipe.programs, home)
    const place = { home, programs, data: join(home, 'data') }
    await runCommand(await asServerUser(recipe.initialise(place), recipe.stopSignal, home))
    const port = await freePort()
    const command = await asServerUser(withEnvironment(recipe.serve(place, port), env), recipe.stopSignal, home)
    const url = recipe.url(port)
    const launch = async () => {
      const launched = spawnServer(command, logFile)
      server = launched
      await untilAnswering(url, { seconds: 60, hasFailed: () => whyEnded(launched) })
      return launched
    }
    const { pid = null } = await launch()
    const crash = async () => {
      if (server !== undefined) await end(server, 'SIGKILL')
      for (let tries = 1; ; tries++) {
        try {
          await launch()
          return
        } catch (error) {
          // The sessions of a killed PostgreSQL keep its memory for a moment, and it refuses to start beside them.
          if (tries === 5) throw error
          await sleep(500)
        }
      }
    }
    return { ...recipe.kind, url, logFile, pid, stop, crash }
  } catch (error) {
    const log = await readFile(logFile, 'utf8').catch(() => '')
    await stop()
    throw log === '' ? error : new Error(`${error}\nThe end of its log:\n${lastLines(log)}`, { cause: error })
  }
}

/** Set by `env`, which runs as the server's OS user: what is preloaded shall not run as root, in setpriv, before. */
function withEnvironment({ program, args, ...rest }: Command, env: NodeJS.ProcessEnv): Command {
  const assignments = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  return assignments.length === 0
    ? { program, args, ...rest }
    : { program: 'env', args: [...assignments, program, ...args], ...rest }
}

async function makeHome(name: string): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), `rowlock-${name}-`))
  if (nobody !== null) await chown(home, nobody, nobody)
  return home
}

/** The directory itself if the OS user of the server can get there, which is not so below root's home; otherwise a copy. */
async function readableForServer(directory: string, home: string): Promise<string> {
  if (nobody === null || (await isOpenToAll(directory))) return directory
  const copy = join(home, 'programs')
  const asLinks = await succeeds({ program: 'cp', args: ['-al', directory, copy] })
  if (!asLinks) {
    await rm(copy, { recursive: true, force: true })
    await runCommand({ program: 'cp', args: ['-a', directory, copy] })
  }
  await chmod(copy, 0o755)
  return copy
}

async function isOpenToAll(directory: string): Promise<boolean> {
  const { mode } = await stat(directory)
  const isOpen = (mode & 0o005) === 0o005
  return isOpen && (dirname(directory) === directory || (await isOpenToAll(dirname(directory))))
}

/** The command under the OS user of the server, and such that it ends when this process is killed. */
async function asServerUser(command: Command, stopSignal: Recipe['stopSignal'], home: string): Promise<Command> {
  // MariaDB starts by removing the temporary tables it finds there, and so must not share it with another server.
  const env = { ...command.env, TMPDIR: home }
  const setpriv = await findProgram('setpriv')
  if (setpriv === null && nobody === null) return { ...command, env }
  if (setpriv === null) throw new Error('root needs setpriv, of util-linux, to run a server as another user')
  const asNobody = nobody === null ? [] : [`--reuid=${nobody}`, `--regid=${nobody}`, '--clear-groups']
  return {
    env,
    program: setpriv,
    args: [...asNobody, `--pdeathsig=${stopSignal.slice(3)}`, command.program, ...command.args],
  }
}

function spawnServer({ program, args, env }: Command, logFile: string): ChildProcess {
  const log = openSync(logFile, 'a')
  try {
    return spawn(program, args, { env: { ...process.env, ...env }, stdio: ['ignore', log, log] })
  } finally {
    closeSync(log)
  }
}

async function end(server: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (whyEnded(server) !== null) return
  const ended = once(server, 'exit')
  server.kill(signal)
  const inTime = await Promise.race([ended.then(() => true), sleep(20_000, false, { ref: false })])
  if (inTime) return
  server.kill('SIGKILL')
  await ended
}

function whyEnded(server: ChildProcess | undefined): string | null {
  const reason = server?.signalCode ?? server?.exitCode ?? null
  return reason === null ? null : `the server ended with ${reason}`
}

/** A free port below those the system gives to outgoing connections, since one of these could take it meanwhile. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 15_000)
    if (await isFree(port)) return port
  }
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}

const cleanUps = new Set<() => void>()
let isListening = false

/** Runs `cleanUp` if this process ends, be it by a signal, before the function returned has been called. */
function atExit(cleanUp: () => void): () => void {
  if (!isListening) listenForExit()
  isListening = true
  cleanUps.add(cleanUp)
  return () => cleanUps.delete(cleanUp)
}

function listenForExit(): void {
  process.once('exit', () => {
    for (const cleanUp of cleanUps) cleanUp()
  })
  process.on('SIGHUP', () => process.exit(129))
  process.on('SIGINT', () => process.exit(130))
  process.on('SIGTERM', () => process.exit(143))
}
