import { createHash } from 'node:crypto'
import { chmod, mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cached } from '../servers/cache.ts'
import { runCommand } from '../servers/command.ts'

/** A wall clock for one server, that can be set while the server runs. */
export interface ServerClock {
  /** What the server's environment needs. */
  readonly env: NodeJS.ProcessEnv
  /** Sets it by so many seconds ahead, or back. */
  advance(seconds: number): Promise<void>
  remove(): Promise<void>
}

const source = fileURLToPath(new URL('clock.c', import.meta.url))

export async function makeServerClock(): Promise<ServerClock> {
  // Where the server's OS user can read both the library and the file.
  const directory = await mkdtemp(join(tmpdir(), 'rowlock-clock-'))
  await chmod(directory, 0o755)
  const library = join(directory, 'clock.so')
  await runCommand({ program: 'cp', args: [join(await compiled(), 'clock.so'), library] })
  const path = join(directory, 'ahead')
  const file = await open(path, 'w')
  let ahead = 0n
  const write = async () => {
    const bytes = Buffer.alloc(8)
    bytes.writeBigInt64LE(ahead)
    await file.write(bytes, 0, 8, 0)
  }
  await write()
  return {
    env: { LD_PRELOAD: library, ROWLOCK_CLOCK: path },
    async advance(seconds) {
      ahead += BigInt(seconds)
      await write()
    },
    async remove() {
      await file.close()
      await rm(directory, { recursive: true })
    },
  }
}

async function compiled(): Promise<string> {
  const hash = createHash('sha256')
    .update(await readFile(source))
    .digest('hex')
    .slice(0, 16)
  return cached(`clock-${hash}`, 'a clock for servers', async (draft) => {
    await runCommand({
      program: 'cc',
      args: ['-shared', '-fPIC', '-O2', '-Wall', '-o', join(draft, 'clock.so'), source],
    })
  })
}
