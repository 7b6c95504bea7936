import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { runCommand } from '../servers/command.ts'
import { findProgram, installPackages } from '../servers/debian.ts'

/** One run of the model checker. */
export interface Check {
  readonly name: string
  /** The model's file, without its ending. */
  readonly model: 'lock' | 'modes' | 'trust'
  readonly defines: readonly string[]
  /** Checks the model's claim with weak fairness, instead of assertions and stops alone. */
  readonly liveness?: boolean
}

export interface Verdict {
  /** What was violated; null if nothing was. */
  readonly violation: string | null
  /** Every reachable state was looked at. Not so after a violation. */
  readonly complete: boolean
  readonly states: number
  readonly seconds: number
}

const here = fileURLToPath(new URL('.', import.meta.url))
/** Steps without coming back to a state. Room for more of them takes gigabytes, and is seldom needed. */
const LONGEST_PATH_AT_FIRST = 1_000_000
const LONGEST_PATH = 20_000_000

export async function installSpin(): Promise<void> {
  for (const [program, debianPackage] of [
    ['spin', 'spin'],
    ['gcc', 'gcc'],
  ] as const) {
    if ((await findProgram(program)) === null) await installPackages(debianPackage)
  }
}

/** Generates, compiles and runs the model checker. For a short search `gcc -O0` is the quickest. */
export async function verify(
  { model, defines, liveness = false }: Check,
  optimization: '-O0' | '-O2' = '-O2',
): Promise<Verdict> {
  const directory = await mkdtemp(join(tmpdir(), 'rowlock-model-'))
  try {
    const definitions = [...defines, ...(liveness ? ['PATIENT', 'LIVENESS'] : [])].map((define) => `-D${define}`)
    await runCommand({ program: 'spin', args: ['-a', ...definitions, join(here, `${model}.pml`)], cwd: directory })
    const options = ['-w', optimization, '-DCOLLAPSE', '-DNOREDUCE', ...(liveness ? [] : ['-DSAFETY'])]
    await runCommand({ program: 'gcc', args: [...options, '-o', 'pan', 'pan.c'], cwd: directory })
    const search = (depth: number) =>
      runCommand({
        program: join(directory, 'pan'),
        // A search that does not get to the end of a path is no proof: with -b it stops there.
        args: [`-m${depth}`, '-b', ...(liveness ? ['-a', '-f'] : [])],
        cwd: directory,
      })
    let report = await search(LONGEST_PATH_AT_FIRST)
    if (report.includes('depth limit reached')) report = await search(LONGEST_PATH)
    return read(report)
  } finally {
    await rm(directory, { recursive: true })
  }
}

function read(report: string): Verdict {
  const number = (pattern: RegExp) => {
    const found = pattern.exec(report)?.[1]
    if (found === undefined) throw new Error(`the model checker's report has no ${pattern}:\n${report}`)
    return Number(found)
  }
  const violation = /^pan:\d+: (.*?)(?: \(at depth \d+\))?$/m.exec(report)?.[1] ?? null
  if ((violation === null) !== (number(/errors: (\d+)/) === 0)) throw new Error(`a contradictory report:\n${report}`)
  return {
    violation,
    complete: violation === null && !/Search not completed|out of memory/.test(report),
    states: number(/^\s*([\d.e+]+) states, stored/m),
    seconds: number(/elapsed time ([\d.e+-]+) seconds/),
  }
}
