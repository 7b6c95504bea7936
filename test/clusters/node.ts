import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Recipe, startPrivateServer } from '../servers/private-server.ts'

/** One server of a cluster, as a process that can be made to fail. */
export interface ClusterNode {
  readonly url: string
  readonly logFile: string
  /** Another one after `start`. */
  readonly pid: number
  /** SIGKILL to it and to its children. Resolves when they are gone. */
  kill(): Promise<void>
  /** Starts it again on its data, and resolves when it is a member of its cluster. */
  start(): Promise<void>
  /** SIGSTOP: it keeps its connections and says nothing. */
  pause(): void
  /** SIGCONT. */
  resume(): void
}

export interface OwnNode extends ClusterNode {
  isRunning(): boolean
  /** Stops it in good order, unless it has been killed, and removes its data. */
  remove(): Promise<void>
}

/** Starts a server that writes its process id to the file `pid` in its home. `joined` waits until its cluster has it. */
export async function startNode(
  recipe: Recipe,
  joined: (url: string) => Promise<void>,
  env?: NodeJS.ProcessEnv,
): Promise<OwnNode> {
  let pidFile = ''
  const server = await startPrivateServer(
    {
      ...recipe,
      serve(place, port) {
        pidFile = join(place.home, 'pid')
        return recipe.serve(place, port)
      },
    },
    env,
  )
  const { url, logFile, crash } = server
  if (logFile === null || crash === undefined) throw new Error('a server from binaries has a log, and can crash')
  const readPid = () => Number.parseInt(readFileSync(pidFile, 'utf8'), 10)
  let pid = readPid()
  try {
    await joined(url)
  } catch (error) {
    await server.stop()
    throw error
  }
  return {
    url,
    logFile,
    get pid() {
      return pid
    },
    kill: () => killFamily(pid),
    async start() {
      await crash()
      pid = readPid()
      await joined(url)
    },
    pause: () => void process.kill(pid, 'SIGSTOP'),
    resume: () => void process.kill(pid, 'SIGCONT'),
    isRunning: () => isAlive(pid),
    remove: () => server.stop(),
  }
}

/** Parents first, so that none of them can act on the death of a child. */
async function killFamily(pid: number): Promise<void> {
  const family = withDescendants(pid)
  for (const member of family) if (isAlive(member)) process.kill(member, 'SIGKILL')
  while (family.some(isAlive)) await sleep(10)
}

function withDescendants(pid: number): number[] {
  if (!isAlive(pid)) return []
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean)
  return [pid, ...children.map(Number).flatMap(withDescendants)]
}

function isAlive(pid: number): boolean {
  try {
    // A zombie has ended; only its parent has not looked yet.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}
