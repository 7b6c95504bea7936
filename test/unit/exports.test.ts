import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { EXPORTS, FRAMEWORKS } from '../public-interface.ts'

const root = new URL('../../', import.meta.url)
const { exports } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8')) as {
  exports: Record<string, unknown>
}
const subpaths = Object.keys(exports).filter((subpath) => subpath !== './package.json')
const moduleOf = (subpath: string) => {
  if (subpath === '.') return 'index'
  return subpath.replace('./', FRAMEWORKS.includes(subpath) ? 'frameworks/' : 'adapters/')
}
const sourceOf = (subpath: string) => fileURLToPath(new URL(`src/${moduleOf(subpath)}.ts`, root))

describe('the package', () => {
  it('has these subpaths', () => {
    expect(subpaths).toEqual(Object.keys(EXPORTS))
    expect(exports['./package.json']).toBe('./package.json')
  })

  it.each(subpaths)('has %s as a module, as CommonJS and for bundlers, with types', (subpath) => {
    const module = moduleOf(subpath)
    expect(exports[subpath]).toEqual({
      import: {
        types: `./dist/node/${module}.d.mts`,
        module: `./dist/${module}.js`,
        default: `./dist/node/${module}.mjs`,
      },
      require: {
        types: `./dist/node/${module}.d.cts`,
        module: `./dist/${module}.js`,
        default: `./dist/node/${module}.cjs`,
      },
    })
  })

  it('exports these types and values, and no others', () => {
    const files = subpaths.map(sourceOf)
    const program = ownProgram(files)
    const checker = program.getTypeChecker()
    const found = subpaths.map((subpath, index) => {
      const module = checker.getSymbolAtLocation(program.getSourceFile(files[index]!)!)!
      const symbols = checker.getExportsOfModule(module)
      const names = (wanted: (symbol: ts.Symbol) => boolean) => symbols.filter(wanted).map(({ name }) => name)
      const isOfValue = (symbol: ts.Symbol) => isValue(symbol, checker)
      return [subpath, { values: names(isOfValue).sort(), types: names((each) => !isOfValue(each)).sort() }]
    })
    expect(Object.fromEntries(found)).toEqual(EXPORTS)
  })

  it.each(subpaths)('exports from %s at run time just the values of that list', async (subpath) => {
    expect(Object.keys(await import(sourceOf(subpath))).sort()).toEqual(EXPORTS[subpath]!.values)
  })
})

function isValue(symbol: ts.Symbol, checker: ts.TypeChecker): boolean {
  if (symbol.declarations?.some(ts.isTypeOnlyExportDeclaration)) return false
  const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
  return (target.flags & ts.SymbolFlags.Value) !== 0
}

/** Reads no file but the package's own: the names of exports need no types of Node's or of others. */
function ownProgram(files: string[]): ts.Program {
  const options: ts.CompilerOptions = {
    module: ts.ModuleKind.NodeNext,
    allowImportingTsExtensions: true,
    noEmit: true,
    noLib: true,
    types: [],
  }
  const host = ts.createCompilerHost(options)
  host.resolveModuleNameLiterals = (literals, from) =>
    literals.map(({ text }) =>
      text.startsWith('.') ? ts.resolveModuleName(text, from, options, host) : { resolvedModule: undefined },
    )
  return ts.createProgram(files, options, host)
}
