import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, vi } from 'vitest'
import { compiled } from '../compiled.ts'
import { createDatabase, query } from '../connect.ts'

const main = compiled(new URL('../../src/cli/main.ts', import.meta.url))
let temporaryFolder: string
let running: ChildProcess | undefined

beforeAll(async () => {
  temporaryFolder = await mkdtemp(join(tmpdir(), 'rowlock-test-'))
})

afterEach(() => {
  running?.kill('SIGKILL')
})

afterAll(async () => {
  await rm(temporaryFolder, { recursive: true })
})

function startDemo(...options: string[]): ChildProcess {
  running = spawn(process.execPath, [main, 'demo', ...options], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: temporaryFolder },
  })
  return running
}

async function runDemo(...options: string[]) {
  const demo = startDemo(...options)
  const [output, errors, [exitCode]] = await Promise.all([text(demo.stdout!), text(demo.stderr!), once(demo, 'exit')])
  return { output, errors, exitCode, rows: tableRows(output) }
}

function filesLeft(): Promise<string[]> {
  return readdir(temporaryFolder)
}

/** The numbers of the table, by the names of its rows. */
function tableRows(output: string) {
  const cells = output
    .split('\n')
    .filter((line) => line.startsWith('│'))
    .map((line) => line.split('│').map((cell) => cell.trim()))
  return Object.fromEntries(
    cells.map(([, name, acknowledged, lost, rejected, takeovers, p50, p99]) => [
      name,
      {
        acknowledged: Number(acknowledged),
        lost: Number(lost),
        rejected: Number(rejected),
        takeovers: Number(takeovers),
        p50: Number(p50),
        p99: Number(p99),
      },
    ]),
  )
}

const places = [
  { name: 'SQLite', open: async () => ({ options: [], tablesLeft: async () => [], drop: async () => undefined }) },
  ...inject('servers')
    .filter(({ name }) => name === 'postgres18' || name === 'mysql')
    .map((server) => ({
      name: server.name,
      async open() {
        const database = await createDatabase(server)
        const schema = server.engine === 'postgres' ? 'current_schema()' : 'database()'
        return {
          options: ['--database-url', database.url],
          tablesLeft: () =>
            query(database.url, `select table_name from information_schema.tables where table_schema = ${schema}`),
          drop: () => database.drop(),
        }
      },
    })),
]

describe.each(places)('the demo on $name', ({ open }) => {
  it('loses nothing under leases with guards, loses writes without locks, and leaves nothing behind', async () => {
    const { options, tablesLeft, drop } = await open()
    try {
      const { output, errors, exitCode, rows } = await runDemo('--seconds', '3', ...options)
      expect(errors).toBe('')
      const guarded = rows['lease and guard']!
      expect(guarded.lost, output).toBe(0)
      expect(guarded.acknowledged).toBeGreaterThan(0)
      expect(guarded.rejected).toBeGreaterThanOrEqual(1)
      expect(guarded.takeovers).toBeGreaterThanOrEqual(1)
      expect(guarded.p99).toBeGreaterThanOrEqual(guarded.p50)
      expect(rows['lease only']!.acknowledged).toBeGreaterThan(0)
      expect(rows['no lock']!.lost).toBeGreaterThan(0)
      expect(output).toMatch(/Without locks \d+ writes were lost/)
      expect(exitCode).toBe(0)
      expect(await tablesLeft()).toEqual([])
      expect(await filesLeft()).toEqual([])
    } finally {
      await drop()
    }
  }, 60_000)
})

describe('the demo', () => {
  it('ends its workers, one of them stopped, and removes its file when it is interrupted', async () => {
    const demo = startDemo()
    const workers = await oneStopped(demo.pid!)
    demo.kill('SIGINT')
    expect(await once(demo, 'exit')).toEqual([130, null])
    await vi.waitUntil(() => allGone(workers))
    expect(await filesLeft()).toEqual([])
  }, 60_000)

  it('is survived by no worker, not even by a stopped one, when it is killed', async () => {
    const demo = startDemo()
    const workers = await oneStopped(demo.pid!)
    demo.kill('SIGKILL')
    await vi.waitUntil(() => allGone(workers), { timeout: 10_000 })
    for (const name of await filesLeft()) await rm(join(temporaryFolder, name), { recursive: true })
  }, 60_000)

  it.each([
    ['--workers', '2'],
    ['--seconds', '100000'],
  ])('refuses %s %s, and says why', async (option, value) => {
    const { exitCode, errors } = await runDemo(option, value)
    expect(exitCode).toBe(1)
    expect(errors).toMatch(`rowlock: ${option} must be`)
  })
})

/** The workers of a demo, once one of them is stopped. */
async function oneStopped(demo: number): Promise<number[]> {
  return vi.waitUntil(
    async () => {
      const children = (await readFile(`/proc/${demo}/task/${demo}/children`, 'utf8')).trim().split(' ').map(Number)
      const states = await Promise.all(children.map(state))
      return states.includes('T') && children
    },
    { timeout: 30_000 },
  )
}

async function allGone(processes: readonly number[]): Promise<boolean> {
  const states = await Promise.all(processes.map(state))
  return states.every((each) => each === undefined || each === 'Z')
}

/** The letter that ps shows; undefined if there is no such process. */
async function state(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  return stat?.slice(stat.lastIndexOf(')') + 2)[0]
}
